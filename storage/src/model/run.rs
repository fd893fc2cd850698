//! A run: one durable unit of work. Only evidence may finish it.

use super::id::RunId;
use super::machine::state_machine;

state_machine! {
    /// Where a run stands.
    states RunState {
        Buffered = "buffered",
        Delayed = "delayed",
        Queued = "queued",
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Cancelled = "cancelled",
        TimedOut = "timed_out",
        Expired = "expired",
    }
    /// What can happen to a run.
    events RunEvent {
        Materialised = "materialised",
        CameDue = "came_due",
        Claimed = "claimed",
        Finished = "finished",
        GaveUp = "gave_up",
        Requeued = "requeued",
        Cancelled = "cancelled",
        RanOutOfTime = "ran_out_of_time",
        Expired = "expired",
    }
    edges {
        Buffered + Materialised => Queued,
        Buffered + Cancelled => Cancelled,
        Buffered + Expired => Expired,
        Buffered + GaveUp => Failed,
        Delayed + CameDue => Queued,
        Delayed + Cancelled => Cancelled,
        Queued + Claimed => Running,
        Queued + Cancelled => Cancelled,
        Queued + Expired => Expired,
        Queued + GaveUp => Failed,
        Running + Finished => Succeeded,
        Running + GaveUp => Failed,
        Running + Cancelled => Cancelled,
        Running + RanOutOfTime => TimedOut,
        Running + Requeued => Queued,
    }
}

#[cfg(test)]
const INITIAL: &[RunState] = &[RunState::Buffered, RunState::Delayed, RunState::Queued];

/// A run as it is written at intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    pub id: RunId,
    /// Position in its pool; results are written in this order.
    pub seq: i64,
    /// The caller's own name for it, unique in the pool.
    pub custom_id: String,
    /// Runs of one pack may share a provider batch (same endpoint, same model).
    pub pack: String,
    /// What is sent to the provider: raw JSON, never re-serialised.
    pub body: String,
    /// Most that one attempt can cost, in nano-dollars; `None` when the price is unknown.
    pub reserve_nanos: Option<i64>,
}
