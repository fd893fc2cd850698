//! Data goes to stdout; a reader that has closed it ends the command quietly.

use crate::exit::{Exit, Failure};
use std::io::{ErrorKind, Write};

/// Writes and flushes. A closed pipe is not an error: whoever read has seen enough.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::StoreFailed, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
