//! All schemas by name, and what they are made of.

use super::{batches, chaos, jobs, runs, sessions, sweeps, workers};
use crate::http::problem::Code;
use serde_json::{Map, Value, json};

/// An object that refuses what it does not know. What is not required may be null, as if it were left away.
pub fn strict(required: &[&str], mut properties: Value) -> Value {
    for (name, schema) in properties.as_object_mut().into_iter().flatten() {
        if !required.contains(&name.as_str()) {
            allow_null(schema);
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn allow_null(schema: &mut Value) {
    if let Some(kind) = schema["type"].as_str() {
        schema["type"] = json!([kind, "null"]);
    }
    for (word, null) in [("enum", Value::Null), ("oneOf", json!({ "type": "null" }))] {
        if let Some(choices) = schema.get_mut(word).and_then(Value::as_array_mut) {
            choices.push(null);
        }
    }
}

/// A type or null.
pub fn maybe(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

pub fn nullable(schema: Value) -> Value {
    json!({ "oneOf": [schema, { "type": "null" }] })
}

pub fn usd() -> Value {
    json!({ "type": "string", "pattern": "^-?[0-9]+\\.[0-9]{2,9}$", "description": "Decimal dollars." })
}

pub fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

pub fn all() -> Value {
    let schemas = [
        ("Run", runs::run()),
        ("RunWithAttempts", runs::run_with_attempts()),
        ("Attempt", runs::attempt()),
        ("Outcome", runs::outcome()),
        ("RunCreate", runs::run_create()),
        ("RunBatch", runs::run_batch()),
        ("RunPatch", runs::run_patch()),
        ("Verdicts", runs::verdicts()),
        ("Verdict", runs::verdict()),
        ("Page", page()),
        ("Problem", problem()),
        ("FieldError", field_error()),
        ("Task", task()),
        ("Queue", queue()),
        ("LeaseRequest", workers::lease_request()),
        ("Lease", workers::lease()),
        ("Leases", workers::leases()),
        ("Heartbeat", workers::heartbeat()),
        ("Kept", workers::kept()),
        ("Output", workers::output()),
        ("NextPiece", workers::next_piece()),
        ("Complete", workers::complete()),
        ("Fail", workers::fail()),
        ("Release", workers::release()),
        ("Settled", workers::settled()),
        ("Worker", workers::worker()),
        ("JobCreate", jobs::create()),
        ("Job", jobs::job()),
        ("JobPlan", jobs::plan()),
        ("Batch", batches::batch()),
        ("BatchAdopt", batches::adopt()),
        ("BatchAbandon", batches::abandon()),
        ("SessionOpen", sessions::open()),
        ("Session", sessions::session()),
        ("SessionWithEvents", sessions::with_events()),
        ("SessionTransition", sessions::transition()),
        ("SessionComplete", sessions::complete()),
        ("SessionClose", sessions::close()),
        ("Sweep", sweeps::sweep()),
        ("SweepRun", sweeps::run()),
        ("SweepDone", sweeps::done()),
        ("BufferStatus", buffer_status()),
        ("BufferEntry", buffer_entry()),
        ("Node", node()),
        ("Actor", chaos::actor()),
        ("ActorKill", chaos::kill()),
        ("ActorKilled", chaos::killed()),
        ("Deed", chaos::deed()),
        ("Scale", scale()),
    ];
    Value::Object(schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect::<Map<_, _>>())
}

fn page() -> Value {
    json!({
        "type": "object",
        "required": ["data", "next_cursor", "has_more"],
        "properties": {
            "data": { "type": "array" },
            "next_cursor": { "type": ["string", "null"], "description": "Give it as `cursor` to go on." },
            "has_more": { "type": "boolean" },
        },
    })
}

fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    json!({
        "type": "object",
        "description": "What is wrong, in the form of RFC 9457.",
        "required": ["type", "title", "status", "detail", "code", "retryable", "errors"],
        "properties": {
            "type": { "type": "string", "format": "uri-reference", "description": "Where the code is described." },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string" },
            "code": { "type": "string", "enum": codes },
            "request_id": { "type": "string", "description": "Its name in the server's log." },
            "retryable": { "type": "boolean", "description": "Whether the same request may succeed later." },
            "errors": { "type": "array", "items": { "$ref": "#/components/schemas/FieldError" } },
            "allowed": { "type": "array", "items": { "type": "string" }, "description": "What would be allowed." },
        },
    })
}

fn field_error() -> Value {
    json!({
        "type": "object",
        "required": ["pointer", "code", "detail"],
        "properties": {
            "pointer": {
                "type": "string",
                "description": "A JSON pointer into the body, `?name` for the query, or the name of a header.",
            },
            "code": { "type": "string" },
            "detail": { "type": "string" },
        },
    })
}

fn task() -> Value {
    json!({
        "type": "object",
        "required": ["name", "kind", "queue", "max_attempts", "max_duration_seconds"],
        "properties": {
            "name": { "type": "string" },
            "kind": { "type": "string", "enum": ["noop", "exec", "http", "pull", "llm"] },
            "queue": { "type": "string" },
            "max_attempts": { "type": "integer", "minimum": 1 },
            "max_duration_seconds": maybe("number"),
        },
    })
}

fn queue() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["name", "queued", "delayed", "running", "in_jobs", "oldest_age_seconds", "paused", "paused_at",
            "max_running", "max_running_per_key"],
        "properties": {
            "name": { "type": "string" },
            "queued": count,
            "delayed": count,
            "running": count,
            "in_jobs": {
                "type": ["object", "null"],
                "description": "What jobs have beside those, waiting and in batches; no cap on workers counts it. Null \
                    in every queue if jobs have more runs of the env than are counted here.",
                "required": ["queued", "running"],
                "properties": { "queued": count, "running": count },
            },
            "oldest_age_seconds": maybe("number"),
            "paused": { "type": "boolean" },
            "paused_at": { "oneOf": [time(), { "type": "null" }] },
            "max_running": maybe("integer"),
            "max_running_per_key": maybe("integer"),
        },
    })
}

fn buffer_status() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["data", "entries", "stale", "stale_after_seconds"],
        "properties": {
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["env", "entries", "parked", "oldest_age_seconds"],
                    "properties": {
                        "env": { "type": "string" },
                        "entries": count,
                        "parked": count,
                        "oldest_age_seconds": { "type": "number", "minimum": 0 },
                    },
                },
            },
            "entries": count,
            "stale": count,
            "stale_after_seconds": { "type": "number" },
        },
    })
}

fn buffer_entry() -> Value {
    json!({
        "type": "object",
        "required": ["run_id", "env", "task", "accepted_at", "parked"],
        "properties": {
            "run_id": super::parameters::run_id_schema(),
            "env": { "type": "string" },
            "task": { "type": "string" },
            "accepted_at": time(),
            "parked": { "type": ["string", "null"], "description": "Why it waits for an operator." },
        },
    })
}

fn node() -> Value {
    json!({
        "type": "object",
        "required": ["id", "host", "pid", "state", "level", "lease_until", "this"],
        "properties": {
            "id": { "type": "string" },
            "host": { "type": "string" },
            "pid": { "type": "integer" },
            "state": { "type": "string" },
            "level": { "type": "integer", "description": "What its version understands." },
            "lease_until": time(),
            "this": { "type": "boolean", "description": "It is the one that answers." },
        },
    })
}

fn scale() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["value", "target"],
        "properties": { "value": count, "target": count },
    })
}
