//! The program that carries runs out: a process group of its own for each run, so that what it starts can be
//! stopped with it.

use super::lease::Lease;
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// What no program of a user's needs to know of this worker.
const SECRETS: [&str; 4] = ["TIDEGATE_API_KEY", "TIDEGATE_API_KEY_FILE", "TIDEGATE_STORE", "TIDEGATE_SERVER"];

/// Starts the program for one run. Its stdin is a pipe for the payload, its output two pipes.
pub fn start(program: &[OsString], lease: &Lease) -> std::io::Result<Child> {
    let (name, args) = program.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for secret in SECRETS {
        command.env_remove(secret);
    }
    command.env("TIDEGATE_RUN_ID", &lease.run);
    command.env("TIDEGATE_TASK", &lease.task);
    command.env("TIDEGATE_ATTEMPT", lease.attempt.to_string());
    // What this worker itself was started under is not the run's.
    command.env_remove("TIDEGATE_SESSION_ID");
    command.envs(lease.session.iter().map(|session| ("TIDEGATE_SESSION_ID", session)));
    command.env_remove("TRACEPARENT");
    command.envs(lease.traceparent.iter().map(|trace| ("TRACEPARENT", trace)));
    command.process_group(0).kill_on_drop(true).spawn()
}

/// Whether the program cannot be started at all, so that no other run of it would fare better.
pub fn is_missing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | InvalidInput) || error.raw_os_error() == Some(8)
}

/// A process group, by the id of the process that leads it.
#[derive(Debug, Clone, Copy)]
pub struct Group(Option<Pid>);

impl Group {
    pub fn of(child: &Child) -> Group {
        Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    pub fn ask_to_stop(self) {
        self.send(Signal::TERM);
    }

    pub fn kill(self) {
        self.send(Signal::KILL);
    }

    fn send(self, signal: Signal) {
        if let Group(Some(leader)) = self {
            // A group that has ended already needs no signal.
            let _ = kill_process_group(leader, signal);
        }
    }
}

/// How it ended, in a word for programs and in words for people. `None` when it went well.
pub fn verdict(status: ExitStatus) -> Option<(String, String)> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some((format!("exit_{code}"), format!("the program ended with exit code {code}"))),
        (None, Some(signal)) => Some((format!("signal_{signal}"), format!("the program was ended by signal {signal}"))),
        (None, None) => Some(("ended".to_owned(), "the program ended in an unknown way".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn every_end_but_zero_has_a_code_and_a_reason() {
        assert_eq!(verdict(ExitStatus::from_raw(0)), None);
        let (code, reason) = verdict(ExitStatus::from_raw(3 << 8)).expect("a failure");
        assert_eq!((code.as_str(), reason.as_str()), ("exit_3", "the program ended with exit code 3"));
        assert_eq!(verdict(ExitStatus::from_raw(9)).expect("a failure").0, "signal_9");
    }
}
