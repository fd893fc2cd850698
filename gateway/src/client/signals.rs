//! One thread for a command that mostly waits, and the signals that end the waiting.

use crate::exit::{Exit, Failure};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs a command that speaks to a server; one thread is enough for it.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let cannot = |error| Failure::new(Exit::Unexpected, format!("cannot start the runtime: {error}"));
    let runtime = runtime.map_err(cannot)?;
    let done = runtime.block_on(work);
    // A look-up of a name that is still under way is nobody's any more.
    runtime.shutdown_background();
    done
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
}
