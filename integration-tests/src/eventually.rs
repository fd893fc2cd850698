//! Waiting with patience: for a condition, never for a time.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long anything may take before a test gives up on it; `TIDEGATE_TEST_PATIENCE` in seconds.
pub fn patience() -> Duration {
    let seconds = std::env::var("TIDEGATE_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// Returns as soon as the condition holds; panics, saying what did not come about, when patience ends.
#[expect(clippy::disallowed_methods, reason = "patience is a monotonic span")]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < patience(), "{what}: not within {:?}", patience());
        std::thread::sleep(LOOK_EVERY);
    }
}
