//! Schemas of the worker's protocol.

use super::parameters::{name_schema, run_id_schema};
use super::schemas::{maybe, strict, time};
use serde_json::{Value, json};

/// What proves a lease stands in each of these.
fn proven(required: &[&str], mut fields: Value) -> Value {
    fields["run_id"] = run_id_schema();
    fields["lease_token"] = json!({ "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$" });
    strict(&[&["run_id", "lease_token"], required].concat(), fields)
}

fn lease_seconds() -> Value {
    json!({ "type": "number", "minimum": 1, "maximum": 3_600, "default": 60 })
}

pub fn lease_request() -> Value {
    strict(
        &["tasks", "worker"],
        json!({
            "tasks": { "type": "array", "maxItems": 50, "items": name_schema() },
            "worker": name_schema(),
            "max_items": { "type": "integer", "minimum": 1, "maximum": 100, "default": 1 },
            "wait_seconds": { "type": "number", "minimum": 0, "maximum": 30, "default": 0 },
            "lease_seconds": lease_seconds(),
        }),
    )
}

pub fn lease() -> Value {
    json!({
        "type": "object",
        "required": ["run_id", "task", "queue", "attempt", "max_attempts", "payload", "lease_token", "lease_until",
            "max_duration_seconds"],
        "properties": {
            "run_id": run_id_schema(),
            "task": { "type": "string" },
            "queue": { "type": "string" },
            "attempt": { "type": "integer", "minimum": 1 },
            "max_attempts": { "type": "integer", "minimum": 1 },
            "payload": { "description": "As it was sent." },
            "session_id": { "type": "string", "description": "Of a session's step only." },
            "traceparent": { "type": "string", "description": "Of a run only that is of a W3C trace; pass it on." },
            "lease_token": { "type": "string" },
            "lease_until": time(),
            "max_duration_seconds": maybe("number"),
        },
    })
}

pub fn leases() -> Value {
    json!({
        "type": "object",
        "required": ["data"],
        "properties": { "data": { "type": "array", "items": { "$ref": "#/components/schemas/Lease" } } },
    })
}

pub fn heartbeat() -> Value {
    proven(&[], json!({ "lease_seconds": lease_seconds() }))
}

pub fn kept() -> Value {
    json!({
        "type": "object",
        "required": ["lease_until", "cancel_requested"],
        "properties": { "lease_until": time(), "cancel_requested": { "type": "boolean" } },
    })
}

pub fn output() -> Value {
    proven(
        &["seq", "data"],
        json!({
            "stream": { "type": "string", "enum": ["stdout", "stderr"], "default": "stdout" },
            "seq": { "type": "integer", "minimum": 0, "maximum": 1_000_000_000 },
            "data": { "type": "string", "description": "256 KiB at most, as JSON." },
        }),
    )
}

pub fn next_piece() -> Value {
    json!({
        "type": "object",
        "required": ["next_seq"],
        "properties": { "next_seq": { "type": "integer", "minimum": 0 } },
    })
}

pub fn complete() -> Value {
    proven(&[], json!({ "output": { "description": "Any JSON; kept as the outcome's `output`. 512 KiB at most." } }))
}

pub fn fail() -> Value {
    proven(
        &[],
        json!({
            "code": { "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$",
                "default": "failed" },
            "reason": { "type": "string", "maxLength": 4_096 },
            "retry": { "type": "boolean", "default": true },
            "retry_after_seconds": { "type": "number", "minimum": 0, "maximum": 86_400 },
        }),
    )
}

pub fn release() -> Value {
    proven(&[], json!({}))
}

pub fn settled() -> Value {
    json!({
        "type": "object",
        "required": ["run_id", "status"],
        "properties": {
            "run_id": run_id_schema(),
            "status": { "type": "string", "enum": super::parameters::states() },
        },
    })
}

pub fn worker() -> Value {
    json!({
        "type": "object",
        "required": ["name", "kind", "tasks", "running", "last_seen_at"],
        "properties": {
            "name": { "type": "string" },
            "kind": { "const": "pull" },
            "tasks": { "type": "array", "items": { "type": "string" } },
            "running": { "type": "integer", "minimum": 0 },
            "last_seen_at": time(),
        },
    })
}
