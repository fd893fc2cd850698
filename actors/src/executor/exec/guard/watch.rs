//! The guard proper: takes the order, starts the program, follows the node's words and the program's end.

use super::{launch, say, tree};
use crate::executor::exec::order::{self, KILL, Order, Report, TERMINATE};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group,
    set_child_subreaper, set_dumpable_behavior, wait, waitid, waitpid,
};
use std::fs::DirBuilder;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use storage::boot_clock::since_boot;

/// How often orphans that have ended are cleared away while the program runs.
const CLEAR_EVERY: Duration = Duration::from_secs(1);
/// How soon the tree is looked at again while it is being killed.
const KILL_EVERY: Duration = Duration::from_millis(5);
/// More than any order that fits into the system's limits for a program's arguments and environment.
const LONGEST_ORDER: u64 = 32 << 20;

/// What makes the guard act.
enum Event {
    Terminate,
    Kill,
    /// The program has ended; it was not waited for yet.
    Ended,
}

pub(super) fn run() -> ExitCode {
    let (mut order, payload) = match take_order() {
        Ok(Some(taken)) => taken,
        // The node was gone before it had said everything: nothing has begun, so nothing has to end.
        Ok(None) => return ExitCode::from(super::NOT_STARTED),
        Err(error) => return super::refuse(&format!("the order cannot be read: {error}")),
    };
    // The node may have slept between its last look at its lease and these words; this process has not.
    if since_boot() >= Duration::from_nanos(order.start_by_nanos) {
        tell(&Report::TooLate);
        return ExitCode::from(super::NOT_STARTED);
    }
    order.scratch = order.folder(std::process::id());
    let report = match DirBuilder::new().mode(0o700).create(&order.scratch) {
        Err(error) => not_started(&format!("cannot make {}", order.scratch.display()), &error),
        Ok(()) => carry_out(&order, payload)
            .unwrap_or_else(|error| not_started(&format!("cannot start {}", order.program.display()), &error)),
    };
    let _ = std::fs::remove_dir_all(&order.scratch);
    tell(&report);
    end_like(&report)
}

fn take_order() -> io::Result<Option<(Order, Vec<u8>)>> {
    let mut node = io::stdin().lock();
    let mut line = String::new();
    node.by_ref().take(LONGEST_ORDER).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Ok(None);
    }
    let order: Order = serde_json::from_str(&line)?;
    let mut payload = Vec::new();
    let read = node.by_ref().take(order.payload_bytes).read_to_end(&mut payload)?;
    Ok((u64::try_from(read).ok() == Some(order.payload_bytes)).then_some((order, payload)))
}

fn not_started(what: &str, error: &io::Error) -> Report {
    let why = format!("{what}: {error}");
    say(&why);
    Report::NotStarted { why, shortage: order::is_shortage(error) }
}

/// Runs the program and everything it starts to the end.
fn carry_out(order: &Order, payload: Vec<u8>) -> io::Result<Report> {
    // Nobody but root looks into our memory, where the order and the payload are, and we leave no core file.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_name(c"tidegate-guard")?;
    // Whoever loses its parent below us becomes our child instead of escaping.
    set_child_subreaper(Some(getpid()))?;
    let mut child = start(order)?;
    let program = Pid::from_child(&child);
    let (events, happened) = channel();
    let helped = start_helpers(&mut child, payload, events);
    if helped.is_err() {
        tree::kill_descendants();
    }
    follow(program, Duration::from_millis(order.grace_millis), &happened);
    let report = ended(program, order)?;
    kill_the_rest();
    helped.map(|()| report)
}

fn start(order: &Order) -> io::Result<Child> {
    let mut environment = order.env.clone();
    for name in ["HOME", "TMPDIR"] {
        let scratch = || order.scratch.to_string_lossy().into_owned();
        environment.entry(name.to_owned()).or_insert_with(scratch);
    }
    let cwd: &Path = order.cwd.as_ref().unwrap_or(&order.scratch);
    if !cwd.is_dir() {
        return Err(io::Error::other(format!("there is no folder {} to start it in", cwd.display())));
    }
    launch::spawn(order, &environment, cwd)
}

/// One thread feeds the program, one listens to the node, one waits for the program's end. They end with the
/// process.
fn start_helpers(child: &mut Child, payload: Vec<u8>, events: Sender<Event>) -> io::Result<()> {
    let program = Pid::from_child(child);
    if let Some(mut stdin) = child.stdin.take() {
        // A program need not read its input.
        let feed = move || drop(stdin.write_all(&payload));
        thread::Builder::new().name("feed".to_owned()).spawn(feed)?;
    }
    let node = events.clone();
    thread::Builder::new().name("listen".to_owned()).spawn(move || listen(&node))?;
    let wait = move || {
        // Left unwaited, so that its name and its number stay its own until they have been looked at.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(program), options), Err(rustix::io::Errno::INTR)) {}
        let _ = events.send(Event::Ended);
    };
    thread::Builder::new().name("wait".to_owned()).spawn(wait)?;
    Ok(())
}

fn listen(events: &Sender<Event>) {
    let mut word = [0];
    loop {
        // Any other end of the socket than a word means that nobody is there any more.
        let event = match io::stdin().read(&mut word) {
            Ok(1) if word == [TERMINATE] => Event::Terminate,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(1) if word != [KILL] => continue,
            _ => Event::Kill,
        };
        let is_last = matches!(event, Event::Kill);
        if events.send(event).is_err() || is_last {
            return;
        }
    }
}

/// Comes back when the program has ended, by itself or by us.
#[expect(clippy::disallowed_methods, reason = "the grace is a monotonic span")]
fn follow(program: Pid, grace: Duration, happened: &Receiver<Event>) {
    let mut kill_at: Option<Instant> = None;
    let mut killing = false;
    loop {
        let left = kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        let pause = if killing { KILL_EVERY } else { left.unwrap_or(CLEAR_EVERY).min(CLEAR_EVERY) };
        match happened.recv_timeout(pause) {
            Ok(Event::Ended) => return,
            Ok(Event::Kill) | Err(RecvTimeoutError::Disconnected) => killing = true,
            Ok(Event::Terminate) if kill_at.is_none() => {
                terminate(program);
                kill_at = Some(Instant::now() + grace);
            }
            Ok(Event::Terminate) => {}
            Err(RecvTimeoutError::Timeout) => clear_orphans(program),
        }
        killing |= kill_at.is_some_and(|at| Instant::now() >= at);
        if killing {
            tree::kill_descendants();
        }
        if has_ended(program) {
            return;
        }
    }
}

/// Asks the program and its group to end; a stopped one has to be woken to hear it.
fn terminate(program: Pid) {
    for signal in [Signal::TERM, Signal::CONT] {
        // Before it has a group of its own, it is asked alone.
        if kill_process_group(program, signal).is_err() {
            let _ = kill_process(program, signal);
        }
    }
}

fn has_ended(program: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::Pid(program), options), Ok(Some(_)) | Err(rustix::io::Errno::CHILD))
}

/// Waits for those that lost their parents and have ended, so that a long-lived program leaves no zombies.
fn clear_orphans(program: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    if !matches!(waitid(WaitId::All, options), Ok(Some(_))) {
        return;
    }
    for orphan in tree::dead_children_except(program) {
        let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
    }
}

/// How the program ended, which it has.
fn ended(program: Pid, order: &Order) -> io::Result<Report> {
    let failure = tree::name(program).and_then(|name| launch::failure(&name));
    let status = waitpid(Some(program), WaitOptions::empty())?.map(|(_, status)| status);
    let signal = status.and_then(|status| status.terminating_signal());
    let code = status.and_then(|status| status.exit_status());
    Ok(match (failure, signal, code) {
        (Some(error), _, _) => {
            let why = format!("cannot start {}: {error}", order.program.display());
            Report::NotStarted { why, shortage: order::is_shortage(&error) }
        }
        (None, Some(signal), _) => Report::Killed { signal },
        (None, None, Some(code)) => Report::Exited { code },
        (None, None, None) => return Err(io::Error::other("its end cannot be read")),
    })
}

/// Kills whatever the program left behind. All of it is below us, and each death wakes us to look again.
fn kill_the_rest() {
    let mut patience = WaitOptions::NOHANG;
    loop {
        match wait(patience) {
            Ok(Some(_)) => patience = WaitOptions::NOHANG,
            Ok(None) => {
                tree::kill_descendants();
                patience = WaitOptions::empty();
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Tells the node, if what we have of it can be written to.
fn tell(report: &Report) {
    let told = || -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?).write_all(&line)
    };
    // A node that is gone needs no report.
    let _ = told();
}

/// Ends by the same exit code or signal, for whoever looks at the guard alone.
fn end_like(report: &Report) -> ExitCode {
    match report {
        Report::Exited { code } => ExitCode::from(u8::try_from(*code).unwrap_or(1)),
        Report::TooLate | Report::NotStarted { .. } => ExitCode::from(super::NOT_STARTED),
        Report::Killed { signal } => {
            // Twice: the first of some signals only takes away the runtime's own handler.
            for _ in 0..2 {
                let _ = Signal::from_named_raw(*signal).map(|signal| kill_process(getpid(), signal));
            }
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))
        }
    }
}
