//! One run from its lease to its end.

use super::feed::Feed;
use super::heart::{Heart, Told};
use super::lease::{Lease, is_lost};
use super::program::{self, Group};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// After a program has ended, what it started may still hold its output open; it gets this long.
const OUTPUT_AFTER_END: Duration = Duration::from_secs(2);
/// Between two tries to report an end while the server is away.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What all attempts of a worker share.
pub struct Bench {
    pub client: Client,
    pub program: Vec<OsString>,
    pub lease: Duration,
    pub grace: Duration,
    /// True once everything is to be killed.
    pub kill: watch::Receiver<bool>,
}

/// How an attempt is to be ended at the server.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Complete,
    Fail {
        code: String,
        reason: String,
        retry: bool,
    },
    /// Nothing is said: it is not this worker's any more.
    Lost,
}

/// Carries one run out. An error means that this worker cannot carry out any run.
pub async fn carry_out(bench: Arc<Bench>, lease: Lease) -> Result<(), Failure> {
    let mut child = match program::start(&bench.program, &lease) {
        Ok(child) => child,
        Err(error) => {
            let failure = cannot_start(&bench, &error);
            release(&bench.client, &lease).await;
            return Err(failure);
        }
    };
    let heart = Heart::start(bench.client.clone(), lease.clone(), bench.lease);
    let group = Group::of(&child);
    give(&mut child, &lease);
    let mut feeds = feeds(&mut child, &bench, &lease, &heart);
    let end = end(&bench, &lease, &heart, &mut child, group).await;
    let drained = async {
        for feed in &mut feeds {
            // A feed that panicked has lost its output, not the run.
            let _ = feed.await;
        }
    };
    let lost = end == End::Lost;
    if lost || timeout(OUTPUT_AFTER_END, drained).await.is_err() {
        group.kill();
        for feed in &feeds {
            feed.abort();
        }
    }
    report(&bench, &lease, &heart, end).await;
    Ok(())
}

fn cannot_start(bench: &Bench, error: &std::io::Error) -> Failure {
    let name = bench.program.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let exit = if program::is_missing(error) { Exit::Usage } else { Exit::Unexpected };
    Failure::new(exit, format!("cannot start {name}: {error}")).hint("the run was given back untouched")
}

/// Writes the payload; a program that does not read it may leave it.
fn give(child: &mut Child, lease: &Lease) {
    let Some(mut stdin) = child.stdin.take() else { return };
    let payload = lease.payload.get().as_bytes().to_vec();
    tokio::spawn(async move {
        let _ = stdin.write_all(&payload).await;
    });
}

fn feeds(child: &mut Child, bench: &Bench, lease: &Lease, heart: &Heart) -> Vec<JoinHandle<()>> {
    let feed = |stream| Feed { client: bench.client.clone(), lease: lease.clone(), stream, told: heart.teller() };
    let mut feeds = Vec::new();
    if let Some(out) = child.stdout.take() {
        feeds.push(tokio::spawn(feed("stdout").run(out)));
    }
    if let Some(err) = child.stderr.take() {
        feeds.push(tokio::spawn(feed("stderr").run(err)));
    }
    feeds
}

/// Waits for the program, and ends it where it has to.
async fn end(bench: &Bench, lease: &Lease, heart: &Heart, child: &mut Child, group: Group) -> End {
    let mut kill = bench.kill.clone();
    let killed = async {
        // Without its sender nobody can ask for it any more.
        if kill.wait_for(|kill| *kill).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let too_long = async {
        match lease.max_duration {
            Some(longest) => {
                #[expect(clippy::disallowed_methods, reason = "spans how long the program may take")]
                tokio::time::sleep(longest).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = child.wait() => of_program(ended),
        told = heart.wants_an_end() => {
            stop(child, group, bench.grace).await;
            match told {
                Told::Cancel => fail("cancelled", "cancelled on request", false),
                Told::Lost | Told::GoOn => End::Lost,
            }
        }
        () = too_long => {
            stop(child, group, bench.grace).await;
            fail("timed_out", "it took longer than max_duration_seconds", true)
        }
        () = killed => {
            group.kill();
            End::Lost
        }
    }
}

fn of_program(ended: std::io::Result<ExitStatus>) -> End {
    match ended.map(program::verdict) {
        Ok(None) => End::Complete,
        Ok(Some((code, reason))) => End::Fail { code, reason, retry: true },
        Err(error) => fail("lost", &format!("its process cannot be waited for: {error}"), true),
    }
}

fn fail(code: &str, reason: &str, retry: bool) -> End {
    End::Fail { code: code.to_owned(), reason: reason.to_owned(), retry }
}

/// Asks the program to stop, and does not take no for an answer.
async fn stop(child: &mut Child, group: Group, grace: Duration) {
    group.ask_to_stop();
    if timeout(grace, child.wait()).await.is_err() {
        group.kill();
        let _ = child.wait().await;
    }
}

/// Tells the server how it ended, for as long as the lease is kept.
async fn report(bench: &Bench, lease: &Lease, heart: &Heart, end: End) {
    let (what, fields, words) = match end {
        End::Complete => ("complete", json!({}), "succeeded".to_owned()),
        End::Fail { code, reason, retry } => {
            let words = format!("failed: {reason}");
            ("fail", json!({ "code": code, "reason": reason, "retry": retry }), words)
        }
        End::Lost => return say!("{}: not this worker's any more", lease.run),
    };
    loop {
        let failure = match lease.say(&bench.client, what, fields.clone()).await {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let status = answer["status"].as_str().unwrap_or("settled");
                return say!("{} {}: {words}, {status}", lease.run, lease.task);
            }
            Err(failure) => failure,
        };
        if is_lost(&failure) || heart.told() == Told::Lost || *bench.kill.borrow() {
            return say!("{}: {words}, but the server does not take it: {}", lease.run, failure.what);
        }
        if !matches!(failure.exit, Exit::Unreachable | Exit::TimedOut) {
            return say!("{}: {words}, which cannot be reported: {}", lease.run, failure.what);
        }
        #[expect(clippy::disallowed_methods, reason = "waits for a server that is away")]
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

/// Gives a run back untouched.
pub async fn release(client: &Client, lease: &Lease) {
    match lease.say(client, "release", json!({})).await {
        Ok(_) => say!("{}: given back", lease.run),
        Err(failure) => say!("{}: cannot be given back: {}; its lease will lapse", lease.run, failure.what),
    }
}
