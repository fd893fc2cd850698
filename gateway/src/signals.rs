//! The signals that ask a process to stop.

use crate::exit::{Exit, Failure};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUPs, from when this is called on; until then one ends the process.
pub fn hangups() -> Result<Signal, Failure> {
    let cannot = |error| Failure::new(Exit::Unexpected, format!("cannot listen for signals: {error}"));
    signal(SignalKind::hangup()).map_err(cannot)
}

/// SIGINT and SIGTERM, from when this is made on.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Result<Signals, Failure> {
        let cannot = |error| Failure::new(Exit::Unexpected, format!("cannot listen for signals: {error}"));
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
        })
    }

    /// Until the next one; the exit code that it stands for.
    pub async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
    /// The process asked to stop and does so; asked once more, it ends at once.
    pub fn once_more_ends_at_once(mut self) {
        tokio::spawn(async move {
            let exit = self.next().await;
            #[expect(clippy::disallowed_methods, reason = "the second signal asks for exactly this")]
            std::process::exit(exit as i32);
        });
    }
}
