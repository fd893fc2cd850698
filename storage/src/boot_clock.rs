//! Time as leases are judged on the machine that holds them.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since boot, suspends included: nobody sets this clock, and a process that was frozen finds it moved on.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
