//! Waiting with patience: for a condition, never for a time.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long anything may take before a test gives up on it; `TIDEGATE_TEST_PATIENCE` in seconds.
pub fn patience() -> Duration {
    let seconds = std::env::var("TIDEGATE_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// When patience ends.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "patience is a monotonic span")]
    pub fn from_now() -> Deadline {
        Deadline(Instant::now() + patience())
    }

    /// For what many things have to come to, one after the other.
    #[expect(clippy::disallowed_methods, reason = "patience is a monotonic span")]
    pub fn long_from_now() -> Deadline {
        Deadline(Instant::now() + 3 * patience())
    }

    pub fn left(&self) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "patience is a monotonic span")]
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}

/// Returns as soon as the condition holds; panics, saying what did not come about, when patience ends.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::from_now();
    while !holds() {
        assert!(!deadline.is_over(), "{what}: not within {:?}", patience());
        std::thread::sleep(LOOK_EVERY);
    }
}
