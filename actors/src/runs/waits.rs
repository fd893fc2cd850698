//! What is told of how long runs wait between being ready and being leased, whoever leases them.

use crate::metrics::{QUEUE_WAIT, told_as};
use std::collections::HashMap;
use storage::model::Timestamp;
use storage::store::Leased;

/// One that was claimed at `now`.
pub fn tell_wait(leased: &Leased, now: Timestamp) {
    let queue = told_as(QUEUE_WAIT, leased.lane.queue());
    metrics::histogram!(QUEUE_WAIT, "queue" => queue).record(now.since(leased.since).as_secs_f64());
}

/// Those that were leased by the commit that took them in, by the queue of each: a share of all has to know of them.
pub(super) fn tell_no_waits<'a>(queues: impl Iterator<Item = &'a str>) {
    let mut runs = HashMap::<&str, usize>::new();
    for queue in queues {
        *runs.entry(queue).or_default() += 1;
    }
    for (queue, runs) in runs {
        metrics::histogram!(QUEUE_WAIT, "queue" => told_as(QUEUE_WAIT, queue)).record_many(0.0, runs);
    }
}
