//! One attempt, from the node's side: starts the guard, hands it the order and the payload, passes output on,
//! and asks for the end when told to.
//!
//! Nothing is spawned besides the guard: dropping the future closes the socket, which is the guard's order to
//! kill everything.

use super::order::{self, Order, Report};
use super::{Parts, signal};
use crate::executor::{Assignment, Outcome, Output, Retry, Stop, Stream, StreamWriter, asked};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

const LARGEST_CHUNK: usize = 64 << 10;
/// After the guard's end nobody should hold its pipes any more. If it was killed, somebody may: that one is
/// heard for as long as it speaks, and cut off when it pauses for this long.
const PAUSE_AFTER_END: Duration = Duration::from_secs(1);

pub(super) async fn carry(
    parts: Arc<Parts>,
    assignment: Assignment,
    mut stop: watch::Receiver<Option<Stop>>,
    output: Output,
) -> Outcome {
    let order = match order(&parts, &assignment) {
        Ok(order) => order,
        Err(why) => return Outcome::failed("bad_payload", why, Retry::No),
    };
    if let Some(asked) = *stop.borrow() {
        return asked.outcome();
    }
    let (mut guard, mut control) = match start(parts.clone()).await {
        Ok(started) => started,
        Err(error) => return not_started(&format!("cannot start the guard: {error}"), order::is_shortage(&error)),
    };
    // A stop in the middle of this leaves half an order, which the guard never begins to carry out.
    tokio::select! {
        _ = hand_over(&mut control, &order, &assignment.payload) => {}
        asked = asked(&mut stop, None) => {
            drop(control);
            let _ = guard.wait().await;
            return asked.outcome();
        }
    }
    let folder = guard.id().map(|pid| order.folder(pid));
    let told = accompany(&mut guard, &mut control, stop, &output).await;
    let report = report(control).await;
    if let (None, Some(folder)) = (&report, folder) {
        // A guard that was killed could not tidy up. What is in use just now stays.
        let _ = tokio::fs::remove_dir_all(folder).await;
    }
    told.map_or_else(|| outcome(&parts, report), Stop::outcome)
}

/// Follows the program until the guard has ended and both streams are at their ends, passing on each stop.
async fn accompany(
    guard: &mut Child,
    control: &mut UnixStream,
    mut stop: watch::Receiver<Option<Stop>>,
    output: &Output,
) -> Option<Stop> {
    let (ended, has_ended) = watch::channel(false);
    let stdout = pump(guard.stdout.take(), output.writer(Stream::Stdout), has_ended.clone());
    let stderr = pump(guard.stderr.take(), output.writer(Stream::Stderr), has_ended);
    let mut pumps = pin!(async { tokio::join!(stdout, stderr) });
    let mut end = pin!(async {
        // Its status says nothing that its report does not.
        let _ = guard.wait().await;
        ended.send_replace(true);
    });
    let (mut guard_ended, mut pumps_ended, mut told) = (false, false, None);
    while !(guard_ended && pumps_ended) {
        tokio::select! {
            biased;
            () = &mut end, if !guard_ended => guard_ended = true,
            _ = &mut pumps, if !pumps_ended => pumps_ended = true,
            asked = asked(&mut stop, told), if !guard_ended => {
                let word = if asked == Stop::Lost { order::KILL } else { order::TERMINATE };
                // A guard that is gone has ended everything already.
                let _ = control.write_all(&[word]).await;
                told = Some(asked);
            }
        }
        if guard_ended && told == Some(Stop::Lost) {
            // Whose lease is lost, writes nothing more, output included.
            break;
        }
    }
    told
}

/// Passes one stream on, up to its end.
async fn pump(pipe: Option<impl AsyncRead + Unpin>, mut writer: StreamWriter, mut ended: watch::Receiver<bool>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; LARGEST_CHUNK];
    loop {
        let after_end = *ended.borrow();
        let read = if after_end {
            timeout(PAUSE_AFTER_END, pipe.read(&mut buffer)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                biased;
                read = pipe.read(&mut buffer) => read,
                _ = ended.wait_for(|ended| *ended) => continue,
            }
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(length) => writer.write(&buffer[..length]).await,
        }
    }
    writer.end().await;
}

fn order(parts: &Parts, assignment: &Assignment) -> Result<Order, super::BadPayload> {
    let task = &parts.task;
    let args = parts.args.iter().map(|argument| argument.render(assignment)).collect::<Result<_, _>>()?;
    let name = format!("tidegate-{}-{}-{}", assignment.run, assignment.attempt, assignment.epoch);
    Ok(Order {
        program: task.program.clone(),
        args,
        env: task.environment(assignment),
        cwd: task.cwd.clone(),
        scratch: parts.scratch.join(name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-")),
        grace_millis: u64::try_from(task.grace.as_millis()).unwrap_or(u64::MAX),
        limits: task.limits,
        walls: task.sandbox.walls(task, &parts.hidden),
        payload_bytes: u64::try_from(assignment.payload.len()).unwrap_or(u64::MAX),
        start_by_nanos: u64::try_from(assignment.start_by.as_nanos()).unwrap_or(u64::MAX),
    })
}

/// Starts the guard on a thread for that: where the cores are busy its first moment takes long, and nothing else that
/// this thread has to do waits for it. If nobody wants it any more, it finds its socket closed.
async fn start(parts: Arc<Parts>) -> std::io::Result<(Child, UnixStream)> {
    tokio::task::spawn_blocking(move || start_here(&parts)).await?
}

/// The same in a process group of its own, with nothing of our environment.
fn start_here(parts: &Parts) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(&parts.binary);
    command.arg0("tidegate").arg(order::SUBCOMMAND).env_clear().process_group(0).current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped()).stderr(Stdio::piped());
    let guard = command.spawn()?;
    Ok((guard, UnixStream::from_std(ours)?))
}

/// An error here means that the guard is gone; its report, or the lack of one, says more.
async fn hand_over(control: &mut UnixStream, order: &Order, payload: &str) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    control.write_all(&line).await?;
    control.write_all(payload.as_bytes()).await
}

/// What the guard, which has ended, said last.
async fn report(control: UnixStream) -> Option<Report> {
    let mut line = String::new();
    let mut control = BufReader::new(control);
    timeout(PAUSE_AFTER_END, control.read_line(&mut line)).await.ok()?.ok()?;
    serde_json::from_str(&line).ok()
}

fn outcome(parts: &Parts, report: Option<Report>) -> Outcome {
    match report {
        Some(Report::Exited { code }) if parts.task.success_codes.contains(&code) => {
            Outcome::Succeeded { output: Some(format!(r#"{{"exit_code":{code}}}"#)) }
        }
        Some(Report::Exited { code }) => {
            let hopeless = parts.task.no_retry_codes.contains(&code);
            let retry = if hopeless { Retry::No } else { Retry::WithBackoff };
            Outcome::failed("exit_nonzero", format_args!("exit code {code}"), retry)
        }
        Some(Report::Killed { signal }) => {
            let reason = format!("killed by {}", signal::named(signal));
            Outcome::failed("signal", reason, Retry::WithBackoff)
        }
        Some(Report::TooLate) => Outcome::Lost,
        Some(Report::NotStarted { why, shortage }) => not_started(&why, shortage),
        None => {
            let reason = "the guard of the program was killed, and the program with it";
            Outcome::failed("guard_died", reason, Retry::WithBackoff)
        }
    }
}

fn not_started(why: &str, shortage: bool) -> Outcome {
    let retry = if shortage { Retry::WithBackoff } else { Retry::No };
    Outcome::failed("spawn_failed", why, retry)
}
