//! How much is too much: a limit on each caller, and an alarm for an env that takes in too fast.
//!
//! The decisions are pure functions of a state and a time. The tables around them are hints in memory: they
//! are bounded, and when one is full of busy entries a newcomer is let through unwatched.

mod limit;
mod trip;
mod table;

use std::time::{Duration, Instant};

pub use limit::{Allowed, Limited, Limiter, Quota};
pub use trip::{Alarm, Rule, Tripped, Verdict, Window};

/// Time since the process began to count; unlike a clock it is never set back.
#[derive(Debug, Clone, Copy)]
pub struct Uptime(Instant);

impl Uptime {
    #[expect(clippy::disallowed_methods, reason = "the beginning of all spans between requests")]
    pub fn begin() -> Uptime {
        Uptime(Instant::now())
    }

    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
