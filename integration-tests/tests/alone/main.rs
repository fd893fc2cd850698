//! Promises about times and memory. They are held one after the other and beside no other test, so that what is
//! measured is the server.

mod fair;
mod flood;

use std::sync::{Mutex, MutexGuard, PoisonError};

static MACHINE: Mutex<()> = Mutex::new(());

/// The machine, for as long as a test measures on it.
fn machine() -> MutexGuard<'static, ()> {
    // That one test failed is no reason to fail the others.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
