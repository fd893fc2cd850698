//! The table. A metric that is not in it has no name in the sources.

use super::entry::{Label, Metric, Type, Unit};
use crate::sweeper::Kind;
use storage::model::{BatchState, Closing, JobState, RunState};

/// Defines each name and the table of them all: constant, name, type, unit, labels, buckets of a histogram, help.
macro_rules! catalogue {
    ($(
        $constant:ident $name:literal $kind:ident $unit:ident [$($label:ident)*] $([$buckets:ident])? $help:literal;
    )+) => {
        $(#[doc = $help] pub const $constant: &str = $name;)+

        /// Every metric there is.
        pub const CATALOGUE: &[Metric] = &[$(Metric {
            constant: stringify!($constant),
            name: $name,
            kind: Type::$kind,
            unit: Unit::$unit,
            labels: &[$(labels::$label),*],
            help: $help,
            buckets: catalogue!(@buckets $($buckets)?),
        }),+];
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

catalogue! {
    RUNS_ACCEPTED "tidegate_runs_accepted_total" Counter Count [PATH]
        "Runs durably taken in.";
    RUNS_REJECTED "tidegate_runs_rejected_total" Counter Count [REJECTED]
        "Runs that were not taken in, by reason.";
    RUNS_FINISHED "tidegate_runs_finished_total" Counter Count [RUN_END]
        "Runs that reached a terminal state, by state.";
    RUN_ATTEMPTS "tidegate_run_attempts_total" Counter Count [TASK ATTEMPT_END]
        "Attempts that ended, by task and outcome.";
    QUEUE_WAIT "tidegate_run_queue_wait_seconds" Histogram Seconds [QUEUE] [SPAN_BUCKETS]
        "From ready to claimed, by queue.";
    RUN_SECONDS "tidegate_run_duration_seconds" Histogram Seconds [TASK] [SPAN_BUCKETS]
        "What attempts took, by task.";
    QUEUE_DEPTH "tidegate_queue_depth" Gauge Count [QUEUE]
        "Runs that wait to be claimed.";
    QUEUE_OLDEST_AGE "tidegate_queue_oldest_age_seconds" Gauge Seconds [QUEUE]
        "How long the oldest run of each queue has been ready.";
    BUFFER_DECISIONS "tidegate_buffer_decisions_total" Counter Count [DECISION DIVERTED]
        "What the gate decided, and why.";
    BUFFER_DRAINED "tidegate_buffer_drained_total" Counter Count [DRAINED]
        "Entries that left the buffer, by outcome.";
    BUFFER_ENTRIES "tidegate_buffer_entries" Gauge Count [BUFFERED]
        "Runs in the buffer, by state.";
    BUFFER_STALE "tidegate_buffer_stale_entries" Gauge Count []
        "Buffered runs that have waited longer than the stale limit.";
    LEASES_LOST "tidegate_leases_lost_total" Counter Count []
        "Times that this node found its lease or a batch in other hands.";
    BATCHES "tidegate_llm_batches" Gauge Count [BATCH_STATE]
        "Provider batches in flight, by state.";
    BATCHES_UNRECONCILED "tidegate_llm_batches_unreconciled" Gauge Count []
        "Batches of which it is unknown whether the provider has them.";
    BATCH_CREATES "tidegate_llm_batch_creates_total" Counter Count [CREATED]
        "Creates sent to providers, by what became of them.";
    DUPLICATE_BATCHES "tidegate_llm_duplicate_batches_total" Counter Count []
        "Provider batches found that duplicate one of ours.";
    LIVE_CALLS "tidegate_llm_live_calls_total" Counter Count [CALLED]
        "Requests called one by one, by what came of it.";
    RESULTS_QUARANTINED "tidegate_llm_results_quarantined_total" Counter Count []
        "Result lines that belong to no open request of their batch.";
    SPEND_NANOS "tidegate_llm_spend_nanodollars_total" Counter Nanodollars []
        "Money spent on settled results, in nano-dollars.";
    SESSIONS_CLOSED "tidegate_sessions_closed_total" Counter Count [CLOSING]
        "Sessions that were closed, by outcome.";
    SESSIONS_RESUMED "tidegate_sessions_resumed_total" Counter Count []
        "Sessions that went on with a new driver.";
    SWEEP_RECLAIMED "tidegate_sweep_reclaimed_total" Counter Count [SWEEP]
        "What each kind of sweep did something about, or found waiting.";
    SWEEP_SECONDS "tidegate_sweep_duration_seconds" Histogram Seconds [SWEEP] [WORK_BUCKETS]
        "What one pass of each kind of sweep took.";
    CONFIG_RELOADED "tidegate_config_last_reload_success_timestamp_seconds" Gauge Seconds []
        "When the settings were last read without a fault.";
    SWEEP_LAST_SUCCESS "tidegate_sweep_last_success_timestamp_seconds" Gauge Seconds [SWEEP]
        "When each kind of sweep last went through.";
    ACTOR_RESTARTS "tidegate_actor_restarts_total" Counter Count [ACTOR CAUSE INJECTED]
        "Children rebuilt by the supervisor, by actor, cause and whether somebody wanted it.";
    CHAOS_KILLS "tidegate_chaos_kills_total" Counter Count [TARGET MODE]
        "Children told to die on purpose, by target and mode.";
    ACTOR_RESTART_SECONDS "tidegate_actor_restart_seconds" Histogram Seconds [ACTOR] [WORK_BUCKETS]
        "From a child's death to its successor's first answer.";
    MAILBOX_DEPTH "tidegate_actor_mailbox_depth" Gauge Count [ACTOR]
        "Messages to a child that it has not begun to handle, when the supervisor last looked, by actor.";
    HTTP_REQUESTS "tidegate_http_requests_total" Counter Count [ROUTE METHOD CODE_CLASS]
        "Requests by route, method and class of the answer's status.";
    HTTP_REQUEST_SECONDS "tidegate_http_request_duration_seconds" Histogram Seconds [ROUTE] [REQUEST_BUCKETS]
        "From a request's head to the head of its answer.";
    HTTP_IN_FLIGHT "tidegate_http_in_flight_requests" Gauge Count []
        "Requests that have not been answered yet.";
    HTTP_RATE_LIMITED "tidegate_http_rate_limited_total" Counter Count [POLICY]
        "Requests answered with 429, by why.";
    AUTH_FAILURES "tidegate_auth_failures_total" Counter Count [AUTH]
        "Requests that were not let in, by what their key lacked; a revoked key counts as expired.";
    SSE_CONNECTIONS "tidegate_sse_connections" Gauge Count [STREAM]
        "Streams of events that are open.";
    BUFFER_OLDEST_AGE "tidegate_buffer_oldest_age_seconds" Gauge Seconds []
        "How long the oldest run in the buffer has been there.";
    WORKER_SLOTS "tidegate_worker_slots" Gauge Count []
        "Runs that this node can carry out at once.";
    WORKER_SLOTS_BUSY "tidegate_worker_slots_busy" Gauge Count []
        "Runs that it carries out now.";
    PULL_LEASES "tidegate_pull_leases" Gauge Count []
        "Runs that pull workers have in hand.";
    BATCH_NEXT_EXPIRY "tidegate_llm_batch_next_expiry_timestamp_seconds" Gauge Seconds [PROVIDER]
        "When the first of the submitted batches expires, a day after its submission; 0 if there is none.";
    BATCH_TURNAROUND "tidegate_llm_batch_turnaround_seconds" Histogram Seconds [PROVIDER] [BATCH_BUCKETS]
        "From a batch's submission to its end.";
    TOKENS "tidegate_llm_tokens_total" Counter Count [PROVIDER MODEL DIRECTION]
        "Tokens of settled results, as the provider counts them.";
    UNPRICED "tidegate_llm_unpriced_requests_total" Counter Count [PROVIDER MODEL]
        "Settled results whose cost is not known.";
    SPEND_DAY "tidegate_llm_spend_day_nanodollars" Gauge Nanodollars []
        "What the batches of today (UTC) have cost, or may still: what the cap of the day counts.";
    SPEND_DAY_LIMIT "tidegate_llm_spend_day_limit_nanodollars" Gauge Nanodollars []
        "The cap of the day, if there is one.";
    JOBS "tidegate_jobs" Gauge Count [JOB_STATE]
        "Jobs that are not over, by state.";
    CLUSTER_NODES "tidegate_cluster_nodes" Gauge Count [NODE_STATE]
        "Nodes on this store; those whose lease has run out are suspect.";
    NODE_INFO "tidegate_node_info" Gauge Info [NODE ROLES]
        "This node, and what it does.";
    BUILD_INFO "tidegate_build_info" Gauge Info [VERSION COMMIT STORE]
        "What runs here, and on which kind of store.";
    LEADER "tidegate_leader" Gauge Count [ROLE]
        "Whether this node is the one that sweeps for all, by role.";
    SUPERVISOR_TRIPPED "tidegate_supervisor_tripped" Gauge Count []
        "Whether the supervisor has used up its restarts, after which the process ends.";
    DB_POOL_CONNECTIONS "tidegate_db_pool_connections" Gauge Count [CONNECTION]
        "Connections of the pool to the store, by whether they are in use.";
    PROCESS_CPU "process_cpu_seconds_total" Counter Seconds []
        "Processor time of this process, in user and system mode.";
    PROCESS_MEMORY "process_resident_memory_bytes" Gauge Bytes []
        "Memory of this process that is resident.";
    PROCESS_VIRTUAL "process_virtual_memory_bytes" Gauge Bytes []
        "Memory that this process has mapped.";
    PROCESS_FDS "process_open_fds" Gauge Count []
        "Files and sockets that this process has open.";
    PROCESS_FDS_MAX "process_max_fds" Gauge Count []
        "Files and sockets that it may have open.";
    PROCESS_THREADS "process_threads" Gauge Count []
        "Threads of this process.";
    PROCESS_START "process_start_time_seconds" Gauge Seconds []
        "When this process was started.";
    SPANS_DROPPED "tidegate_trace_spans_dropped_total" Counter Count []
        "Spans that were not exported: more than the receiver takes, or it is away.";
    LABELS_DROPPED "tidegate_metric_labels_dropped_total" Counter Count [METRIC]
        "Values told under the name other, because a metric has too many names already.";
}

/// Buckets of requests.
pub const REQUEST_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets of what this process does by itself.
pub const WORK_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets of waits and of what runs take.
pub const SPAN_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0];

/// Buckets of what provider batches take.
pub const BATCH_BUCKETS: &[f64] =
    &[60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 57_600.0, 86_400.0];

/// Methods of requests that have a word of their own.
pub const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
/// Classes of answers.
pub const CODE_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The labels, each with what it may say.
mod labels {
    use super::*;

    pub const PATH: Label = Label::fixed("path", || vec!["direct", "buffered", "import"]);
    pub const REJECTED: Label = Label::fixed("reason", || vec!["rate", "limit", "overload", "store"]);
    pub const RUN_END: Label = Label::fixed("state", || {
        RunState::ALL.iter().filter(|state| state.is_terminal()).map(|state| state.word()).collect()
    });
    pub const ATTEMPT_END: Label =
        Label::fixed("outcome", || vec!["succeeded", "failed", "cancelled", "timed_out", "lost"]);
    pub const TASK: Label = Label::capped("task", "names of tasks");
    pub const QUEUE: Label = Label::capped("queue", "names of queues");
    pub const DECISION: Label = Label::fixed("decision", || vec!["pass", "shadow", "divert"]);
    pub const DIVERTED: Label = Label::fixed("reason", || vec!["none", "env_rate", "all_rate", "store_slow"]);
    pub const DRAINED: Label = Label::fixed("outcome", || vec!["materialised", "parked"]);
    pub const BUFFERED: Label = Label::fixed("state", || vec!["queued", "parked"]);
    pub const BATCH_STATE: Label = Label::fixed("state", || {
        BatchState::ALL.iter().filter(|state| !state.is_terminal()).map(|state| state.word()).collect()
    });
    pub const CREATED: Label = Label::fixed("outcome", || vec!["accepted", "unclear", "refused"]);
    pub const CALLED: Label = Label::fixed("outcome", || vec!["answered", "declined", "lost"]);
    pub const CLOSING: Label = Label::fixed("outcome", || Closing::ALL.iter().map(|closing| closing.word()).collect());
    pub const SWEEP: Label = Label::fixed("kind", || Kind::ALL.iter().map(|kind| kind.word()).collect());
    pub const ACTOR: Label = Label::names("actor", "names of actors");
    pub const INJECTED: Label = Label::fixed("injected", || vec!["true", "false"]);
    pub const TARGET: Label = Label::names("target", "names of actors");
    pub const MODE: Label = Label::fixed("mode", || vec!["panic", "stop", "hang"]);
    pub const CAUSE: Label = Label::fixed("cause", || vec!["panic", "stop", "hang"]);
    pub const ROUTE: Label = Label::names("route", "patterns of routes");
    pub const METHOD: Label = Label::fixed("method", || METHODS.to_vec());
    pub const CODE_CLASS: Label = Label::fixed("code_class", || CODE_CLASSES.to_vec());
    pub const POLICY: Label = Label::fixed("policy", || vec!["quota_exceeded", "rate_limited", "overloaded"]);
    pub const AUTH: Label = Label::fixed("reason", || vec!["missing", "bad", "expired", "scope"]);
    pub const STREAM: Label = Label::fixed("stream", || vec!["run", "env", "job"]);
    pub const PROVIDER: Label = Label::names("provider", "names of providers");
    pub const MODEL: Label = Label::capped("model", "names of models");
    pub const DIRECTION: Label = Label::fixed("direction", || vec!["input", "output", "cache_read", "cache_write"]);
    pub const JOB_STATE: Label = Label::fixed("state", || {
        JobState::ALL.iter().filter(|state| !state.is_terminal()).map(|state| state.word()).collect()
    });
    pub const NODE_STATE: Label = Label::fixed("state", || vec!["live", "draining", "suspect"]);
    pub const NODE: Label = Label::names("node", "the name of this node");
    pub const ROLES: Label = Label::names("roles", "its roles, with commas");
    pub const VERSION: Label = Label::names("version", "the version");
    pub const COMMIT: Label = Label::names("commit", "the commit it was built from, or unknown");
    pub const STORE: Label = Label::fixed("store", || vec!["sqlite", "postgres"]);
    pub const ROLE: Label = Label::fixed("role", || {
        let mut roles: Vec<&str> = Kind::ALL.iter().map(|kind| kind.role()).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    });
    pub const CONNECTION: Label = Label::fixed("state", || vec!["used", "idle"]);
    pub const METRIC: Label = Label::names("metric", "names of metrics");
}
