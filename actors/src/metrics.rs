//! Names and help texts of the metrics, in one place.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const ACTOR_RESTARTS: &str = "tidegate_actor_restarts_total";
pub const ACTOR_RESTART_SECONDS: &str = "tidegate_actor_restart_seconds";
pub const BATCHES: &str = "tidegate_llm_batches";
pub const BATCHES_UNRECONCILED: &str = "tidegate_llm_batches_unreconciled";
pub const BATCH_CREATES: &str = "tidegate_llm_batch_creates_total";
pub const LIVE_CALLS: &str = "tidegate_llm_live_calls_total";
pub const DUPLICATE_BATCHES: &str = "tidegate_llm_duplicate_batches_total";
pub const RUNS_ACCEPTED: &str = "tidegate_runs_accepted_total";
pub const RUNS_FINISHED: &str = "tidegate_runs_finished_total";
pub const QUEUE_DEPTH: &str = "tidegate_queue_depth";
pub const RESULTS_QUARANTINED: &str = "tidegate_llm_results_quarantined_total";
pub const SPEND_NANOS: &str = "tidegate_llm_spend_nanodollars_total";
pub const LEASES_LOST: &str = "tidegate_leases_lost_total";
pub const QUEUE_OLDEST_AGE: &str = "tidegate_queue_oldest_age_seconds";
pub const QUEUE_WAIT: &str = "tidegate_run_queue_wait_seconds";
pub const RUN_SECONDS: &str = "tidegate_run_duration_seconds";
pub const RUN_ATTEMPTS: &str = "tidegate_run_attempts_total";
pub const RUNS_REJECTED: &str = "tidegate_runs_rejected_total";
pub const BUFFER_DECISIONS: &str = "tidegate_buffer_decisions_total";
pub const BUFFER_DRAINED: &str = "tidegate_buffer_drained_total";
pub const BUFFER_ENTRIES: &str = "tidegate_buffer_entries";
pub const BUFFER_STALE: &str = "tidegate_buffer_stale_entries";
pub const SESSIONS_CLOSED: &str = "tidegate_sessions_closed_total";
pub const SESSIONS_RESUMED: &str = "tidegate_sessions_resumed_total";
pub const SWEEP_RECLAIMED: &str = "tidegate_sweep_reclaimed_total";
pub const SWEEP_SECONDS: &str = "tidegate_sweep_duration_seconds";
pub const CONFIG_RELOADED: &str = "tidegate_config_last_reload_success_timestamp_seconds";
pub const SWEEP_LAST_SUCCESS: &str = "tidegate_sweep_last_success_timestamp_seconds";

/// Buckets of `tidegate_actor_restart_seconds`.
pub const RESTART_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets of waits and of what runs take.
pub const SPAN_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0];

/// Histograms with their buckets.
pub const HISTOGRAMS: &[(&str, &[f64])] = &[
    (ACTOR_RESTART_SECONDS, RESTART_BUCKETS),
    (QUEUE_WAIT, SPAN_BUCKETS),
    (RUN_SECONDS, SPAN_BUCKETS),
    (SWEEP_SECONDS, RESTART_BUCKETS),
];

/// Registers every help text with the installed recorder.
pub fn describe() {
    describe_counter!(ACTOR_RESTARTS, Unit::Count, "Children rebuilt by the supervisor, by actor and cause.");
    describe_histogram!(ACTOR_RESTART_SECONDS, Unit::Seconds, "From a child's death to its successor's first answer.");
    describe_gauge!(BATCHES, Unit::Count, "Provider batches in flight, by state.");
    describe_gauge!(BATCHES_UNRECONCILED, Unit::Count, "Batches of which it is unknown whether the provider has them.");
    describe_counter!(BATCH_CREATES, Unit::Count, "Creates sent to providers, by what became of them.");
    describe_counter!(DUPLICATE_BATCHES, Unit::Count, "Provider batches found that duplicate one of ours.");
    describe_counter!(RUNS_ACCEPTED, Unit::Count, "Runs durably taken in.");
    describe_counter!(RUNS_FINISHED, Unit::Count, "Runs that reached a terminal state, by state.");
    describe_gauge!(QUEUE_DEPTH, Unit::Count, "Runs that wait to be claimed.");
    describe_gauge!(QUEUE_OLDEST_AGE, Unit::Seconds, "How long the oldest run of each queue has been ready.");
    describe_histogram!(QUEUE_WAIT, Unit::Seconds, "From ready to claimed, by queue.");
    describe_histogram!(RUN_SECONDS, Unit::Seconds, "What attempts took, by task.");
    describe_counter!(RUN_ATTEMPTS, Unit::Count, "Attempts that ended, by task and outcome.");
    describe_counter!(RUNS_REJECTED, Unit::Count, "Runs that were not taken in, by reason.");
    describe_counter!(BUFFER_DECISIONS, Unit::Count, "What the gate decided, and why.");
    describe_counter!(BUFFER_DRAINED, Unit::Count, "Entries that left the buffer, by outcome.");
    describe_gauge!(BUFFER_ENTRIES, Unit::Count, "Runs in the buffer, by state.");
    describe_gauge!(BUFFER_STALE, Unit::Count, "Buffered runs that have waited longer than the stale limit.");
    describe_counter!(RESULTS_QUARANTINED, Unit::Count, "Result lines that belong to no open request of their batch.");
    describe_counter!(SPEND_NANOS, Unit::Count, "Money spent on settled results, in nano-dollars.");
    describe_counter!(LIVE_CALLS, Unit::Count, "Requests called one by one, by what came of it.");
    describe_counter!(LEASES_LOST, Unit::Count, "Times that this node found its lease or a batch in other hands.");
    describe_counter!(SESSIONS_CLOSED, Unit::Count, "Sessions that were closed, by outcome.");
    describe_counter!(SESSIONS_RESUMED, Unit::Count, "Sessions that went on with a new driver.");
    describe_counter!(SWEEP_RECLAIMED, Unit::Count, "What each kind of sweep did something about, or found waiting.");
    describe_histogram!(SWEEP_SECONDS, Unit::Seconds, "What one pass of each kind of sweep took.");
    describe_gauge!(CONFIG_RELOADED, Unit::Seconds, "When the settings were last read without a fault.");
    describe_gauge!(SWEEP_LAST_SUCCESS, Unit::Seconds, "When each kind of sweep last went through.");
}
