//! Parameters and headers of answers, each by the name that the table of operations uses.

use super::{sessions, sweeps};
use serde_json::{Map, Value, json};
use storage::model::{BatchState, RunState, Source};

/// A name of tasks and queues.
pub fn name_schema() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._-]+$" })
}

pub fn run_id_schema() -> Value {
    json!({ "type": "string", "pattern": "^run_[0-9a-hjkmnp-tv-z]{26}$", "examples": [super::examples::RUN] })
}

pub fn id_schema(prefix: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^{prefix}_[0-9a-hjkmnp-tv-z]{{26}}$") })
}

pub fn states() -> Vec<&'static str> {
    RunState::ALL.iter().map(|state| state.word()).collect()
}

pub fn batch_states() -> Vec<&'static str> {
    BatchState::ALL.iter().map(|state| state.word()).collect()
}

pub fn sources() -> [&'static str; 2] {
    [Source::Backfill.word(), Source::Daemon.word()]
}

fn parameter(place: &str, name: &str, what: &str, schema: Value) -> Value {
    json!({ "name": name, "in": place, "description": what, "required": place == "path", "schema": schema })
}

pub fn all() -> Value {
    let word = |words: Value| json!({ "type": "string", "enum": words });
    let time = json!({ "type": "string", "format": "date-time" });
    let parameters = [
        ("run_id", parameter("path", "id", "The run's id.", run_id_schema())),
        ("job_id", parameter("path", "id", "The job's id.", id_schema("job"))),
        ("batch_id", parameter("path", "id", "The batch's id.", id_schema("bat"))),
        ("batch_state", parameter("query", "state", "Only those that are so.", word(json!(batch_states())))),
        ("session_id", parameter("path", "id", "The session's id.", id_schema("ses"))),
        ("session_filter", parameter("query", "session_id", "Only steps of this session.", name_schema())),
        ("session_status", parameter("query", "status", "Only those that are so.", word(json!(sessions::states())))),
        ("session_type", parameter("query", "type", "Only those of this type.", name_schema())),
        ("kind", parameter("path", "kind", "What it looks for.", word(json!(sweeps::kinds())))),
        ("name", parameter("path", "name", "The actor's name.", json!({ "type": "string", "minLength": 1 }))),
        ("node_id", parameter("path", "id", "The node's id.", id_schema("node"))),
        ("queue", parameter("path", "queue", "The queue's name; it need not hold anything.", name_schema())),
        ("status", parameter("query", "status", "Only those that are so.", word(json!(states())))),
        ("task", parameter("query", "task", "Only those of this task.", name_schema())),
        ("queue_filter", parameter("query", "queue", "Only those of this queue.", name_schema())),
        (
            "tag",
            parameter(
                "query",
                "tag",
                "Only those with this tag.",
                json!({ "type": "string", "minLength": 1, "maxLength": 128 }),
            ),
        ),
        ("source", parameter("query", "source", "Only those from there.", word(json!(sources())))),
        ("accepted_after", parameter("query", "accepted_after", "Only those accepted after this.", time.clone())),
        ("accepted_before", parameter("query", "accepted_before", "Only those accepted before this.", time)),
        (
            "limit",
            parameter(
                "query",
                "limit",
                "How many at most.",
                json!({ "type": "integer", "minimum": 1, "maximum": 200, "default": 50 }),
            ),
        ),
        (
            "cursor",
            parameter(
                "query",
                "cursor",
                "`next_cursor` of the page before, of the same list with the same filters.",
                json!({ "type": "string", "minLength": 1, "maxLength": 1024 }),
            ),
        ),
        ("stream", parameter("query", "stream", "Which stream; stdout if absent.", word(json!(["stdout", "stderr"])))),
        ("tail", parameter("query", "tail", "Only so many bytes of its end.", number(0))),
        ("follow", parameter("query", "follow", "Stay until the run has ended.", json!({ "type": "boolean" }))),
        ("epoch", parameter("query", "epoch", "Of which attempt, as the events number them.", number(1))),
    ];
    let mut all: Map<String, Value> = parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(of_headers().into_iter().map(|(name, value)| (name.to_owned(), value)));
    Value::Object(all)
}

fn of_headers() -> [(&'static str, Value); 6] {
    let half = "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?";
    let env = json!({ "type": "string", "minLength": 3, "maxLength": 81, "pattern": format!("^{half}/{half}$") });
    let key = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" });
    let text = json!({ "type": "string" });
    let says = "Names the env where no keys are asked for; `default/dev` if absent. A key names its own, with which \
                this has to agree.";
    [
        ("env", parameter("header", "X-Tidegate-Env", says, env)),
        (
            "idempotency_key",
            parameter(
                "header",
                "Idempotency-Key",
                "With or without quotes; holds for a day unless configured otherwise.",
                key,
            ),
        ),
        (
            "if_match",
            parameter(
                "header",
                "If-Match",
                "An ETag that the run was read with, or `*`; anything else is of no version, and 412.",
                text.clone(),
            ),
        ),
        ("if_none_match", parameter("header", "If-None-Match", "ETags that the caller has the run by.", text.clone())),
        (
            "traceparent",
            parameter(
                "header",
                "traceparent",
                "The W3C trace that the runs are of. One that cannot be read is passed over.",
                text.clone(),
            ),
        ),
        ("last_event_id", parameter("header", "Last-Event-ID", "The last event that the caller has.", text)),
    ]
}

fn number(least: i64) -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": least, "maximum": i64::MAX })
}

/// Headers of answers.
pub fn headers() -> Value {
    let header = |what: &str, schema: Value| json!({ "description": what, "schema": schema });
    let text = || json!({ "type": "string" });
    json!({
        "Location": header("Where the run is.", text()),
        "Idempotency-Replayed": header("There if this is the first answer again.", json!({ "const": "true" })),
        "traceparent": header("There if the request had one: the span that the runs belong to.", text()),
        "ETag": header("Changes with every change that a caller can see.", text()),
        "X-Tidegate-Total-Bytes": header("What the stream has had in all, kept or not.", number(0)),
        "X-Tidegate-Attempt": header("Whose output it is.", number(0)),
        "X-Tidegate-Truncated": header("Whether the stream was longer than is kept.", json!({ "enum": ["true", "false"] })),
    })
}
