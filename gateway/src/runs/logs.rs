//! `runs logs`: what a run has written, byte for byte; with `--follow` over all of its attempts.
//!
//! A stream of output belongs to one attempt. What tells that an attempt has ended and another one has begun are
//! the run's events, so following reads both.

use super::path;
use crate::cli::LogsArgs;
use crate::client::{Client, Event, Follow, Piece, Request, Stream};
use crate::exit::{Exit, Failure};
use crate::output::{Reader, send_bytes};
use crate::signals::Signals;
use serde_json::Value;
use std::time::Duration;

/// A follower is quiet for as long as its run is; the events beside it tell whether the server is there.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// What is there already comes without a pause.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub async fn print(client: &Client, args: &LogsArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        done = work(client, args) => match done {
            Ok(()) | Err(Stop::ReaderGone) => Ok(Exit::Done),
            Err(Stop::Failed(failure)) => Err(*failure),
        },
        exit = signals.next() => Ok(exit),
    }
}

/// Why printing ends early.
enum Stop {
    ReaderGone,
    Failed(Box<Failure>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(Box::new(failure))
    }
}

async fn work(client: &Client, args: &LogsArgs) -> Result<(), Stop> {
    let mut log = Log { client, args, attempt: None, at: 0 };
    log.first().await?;
    if args.follow { log.follow().await } else { Ok(()) }
}

/// What was printed so far: which attempt's output, and up to which byte of it.
struct Log<'a> {
    client: &'a Client,
    args: &'a LogsArgs,
    attempt: Option<u64>,
    at: u64,
}

impl Log<'_> {
    fn request(&self) -> Request {
        let request = Request::get(path(&self.args.id, "/output")).query("stream", &self.args.stream);
        request.maybe_query("epoch", self.attempt.filter(|attempt| *attempt > 0))
    }

    /// What is there by now, of the last attempt that wrote anything.
    async fn first(&mut self) -> Result<(), Stop> {
        let mut stream = self.client.stream(&self.request().maybe_query("tail", self.args.tail)).await?;
        let number = |name| stream.header(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        self.attempt = Some(number("x-tidegate-attempt"));
        let total = number("x-tidegate-total-bytes");
        self.at = self.args.tail.map_or(0, |tail| total.saturating_sub(tail));
        if stream.header("x-tidegate-truncated") == Some("true") {
            say!("it wrote {total} bytes, more than the server keeps of one attempt; the end is missing");
        }
        self.copy(&mut stream).await
    }

    async fn copy(&mut self, stream: &mut Stream) -> Result<(), Stop> {
        loop {
            match stream.next(SILENCE_MAX).await {
                Piece::Bytes(bytes) => self.write(&bytes)?,
                Piece::End => return Ok(()),
                Piece::Broken(why) => return Err(broken(&why).into()),
                Piece::Silent => return Err(broken("nothing came for a while").into()),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.at += bytes.len() as u64;
        match send_bytes(bytes)? {
            Reader::Listening => Ok(()),
            Reader::Gone => Err(Stop::ReaderGone),
        }
    }

    /// Goes along with the run's events until its end.
    async fn follow(&mut self) -> Result<(), Stop> {
        let mut events = Follow::run(self.client, &self.args.id);
        let mut live: Option<Live> = None;
        loop {
            let piece = async {
                match &mut live {
                    Some(live) => live.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                piece = piece => match piece {
                    Some(bytes) => self.write(&bytes)?,
                    // What this one did not bring is read at the attempt's end.
                    None => live = None,
                },
                event = events.next() => match event? {
                    Some(event) => self.event(&event, &mut live).await?,
                    None => return self.rest().await,
                },
            }
        }
    }

    async fn event(&mut self, event: &Event, live: &mut Option<Live>) -> Result<(), Stop> {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let attempt = data["attempt"].as_u64();
        if attempt < self.attempt || attempt.is_none() {
            return Ok(());
        }
        match event.name.as_str() {
            "started" => {
                if attempt > self.attempt {
                    (self.attempt, self.at) = (attempt, 0);
                }
                // A follower that cannot be had now is made up for at the end.
                let opened = self.client.stream(&self.request().query("follow", true)).await.ok();
                *live = opened.map(|stream| Live { stream, skip: self.at });
            }
            "requeued" => {
                *live = None;
                self.rest().await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What the present attempt wrote beyond what was printed.
    async fn rest(&mut self) -> Result<(), Stop> {
        if self.attempt.is_none_or(|attempt| attempt == 0) {
            return Ok(());
        }
        let stream = self.client.stream(&self.request()).await?;
        let mut rest = Live { stream, skip: self.at };
        while let Some(bytes) = rest.next_within(SILENCE_MAX).await {
            self.write(&bytes)?;
        }
        Ok(())
    }
}

/// Output that is read from its beginning, without what was printed already.
struct Live {
    stream: Stream,
    skip: u64,
}

impl Live {
    async fn next(&mut self) -> Option<bytes::Bytes> {
        self.next_within(FOREVER).await
    }

    /// Until its end, or until it broke off.
    async fn next_within(&mut self, patience: Duration) -> Option<bytes::Bytes> {
        loop {
            let Piece::Bytes(mut bytes) = self.stream.next(patience).await else { return None };
            let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= known as u64;
            let fresh = bytes.split_off(known);
            if !fresh.is_empty() {
                return Some(fresh);
            }
        }
    }
}

fn broken(why: &str) -> Failure {
    Failure::new(Exit::Unreachable, "the connection broke off in the middle of the output")
        .cause(why)
        .hint("run the same command again")
}
