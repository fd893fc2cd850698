//! Schemas about runs.

use super::parameters::{id_schema, name_schema, run_id_schema, sources, states};
use super::schemas::{maybe, nullable, strict, time, usd};
use serde_json::{Value, json};
use storage::model::RequestState;

/// Fields that may be set when a run is made, and those that may be changed later.
pub fn tags() -> Value {
    json!({
        "type": "array",
        "maxItems": 10,
        "items": { "type": "string", "minLength": 1, "maxLength": 128 },
        "description": "To find it by; doubles count once.",
    })
}

pub fn priority() -> Value {
    json!({
        "type": "integer",
        "minimum": -86_400,
        "maximum": 86_400,
        "description": "Seconds by which it is older than it is: higher goes first.",
    })
}

fn metadata() -> Value {
    json!({ "type": "object", "description": "Kept with it; 256 KiB at most." })
}

/// Seconds as a plain number, or a duration.
fn span(least: f64, most: f64, what: &str) -> Value {
    json!({
        "oneOf": [
            { "type": "number", "minimum": least, "maximum": most },
            { "type": "string", "format": "duration", "pattern": "^P", "examples": ["PT90M"] },
        ],
        "description": what,
    })
}

const YEAR: f64 = 366.0 * 86_400.0;

pub fn key() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" })
}

pub fn session_name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$" })
}

pub fn run_create() -> Value {
    strict(
        &["task"],
        json!({
            "task": name_schema(),
            "payload": { "description": "Any JSON; the task gets it byte for byte. 512 KiB at most." },
            "queue": name_schema(),
            "priority": priority(),
            "delay_seconds": span(0.0, YEAR, "Start no sooner than after this; not together with `not_before`."),
            "not_before": { "type": "string", "format": "date-time", "description": "Start no sooner than then." },
            "ttl_seconds": span(1.0, YEAR, "Give it up if it has not started within this."),
            "idempotency_key": key(),
            "tags": tags(),
            "metadata": metadata(),
            "concurrency_key": key(),
            "max_attempts": { "type": "integer", "minimum": 1, "maximum": 1_000 },
            "max_duration_seconds": span(0.1, 30.0 * 86_400.0, "Longest time of one attempt."),
            "source": { "type": "string", "enum": sources() },
            "session_id": session_name(),
        }),
    )
}

pub fn run_batch() -> Value {
    strict(
        &["runs"],
        json!({
            "runs": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1_000,
                "items": { "$ref": "#/components/schemas/RunCreate" },
            },
        }),
    )
}

pub fn run_patch() -> Value {
    strict(
        &[],
        json!({
            "tags": tags(),
            "metadata": metadata(),
            "priority": priority(),
            "not_before": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "In the future; null lets a run that waits for its time start at once.",
            },
        }),
    )
}

/// A run as every answer shows it.
pub fn run() -> Value {
    let id = run_id_schema();
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "required": ["id", "env", "task", "queue", "status", "priority", "tags", "metadata", "concurrency_key",
            "idempotency_key", "source", "session_id", "replay_of", "attempt", "max_attempts",
            "max_duration_seconds", "accepted_at", "not_before", "expires_at", "started_at", "finished_at",
            "cancel_requested", "worker", "outcome", "version"],
        "properties": {
            "id": id,
            "env": text,
            "task": text,
            "queue": text,
            "status": { "type": "string", "enum": states() },
            "priority": { "type": "integer" },
            "payload": { "description": "As it was sent. Lists leave it away." },
            "tags": { "type": "array", "items": text },
            "metadata": { "type": "object" },
            "concurrency_key": maybe("string"),
            "idempotency_key": maybe("string"),
            "source": { "type": "string", "enum": sources() },
            "session_id": maybe("string"),
            "replay_of": maybe("string"),
            "attempt": { "type": "integer", "minimum": 0, "description": "Attempts so far." },
            "max_attempts": { "type": "integer", "minimum": 1 },
            "max_duration_seconds": maybe("number"),
            "accepted_at": time(),
            "not_before": { "oneOf": [time(), { "type": "null" }] },
            "expires_at": { "oneOf": [time(), { "type": "null" }] },
            "started_at": { "oneOf": [time(), { "type": "null" }] },
            "finished_at": { "oneOf": [time(), { "type": "null" }] },
            "cancel_requested": { "type": "boolean" },
            "worker": maybe("string"),
            "outcome": { "oneOf": [{ "$ref": "#/components/schemas/Outcome" }, { "type": "null" }] },
            "trace_id": {
                "type": "string",
                "pattern": "^[0-9a-f]{32}$",
                "description": "Of a run only that is of a W3C trace.",
            },
            "version": { "type": "integer", "minimum": 1 },
        },
    })
}

pub fn outcome() -> Value {
    json!({
        "type": "object",
        "required": ["code", "reason"],
        "properties": {
            "code": { "type": "string", "examples": ["succeeded", "exit_1", "timed_out"] },
            "reason": maybe("string"),
            "output": { "description": "What a worker completed it with." },
        },
    })
}

pub fn run_with_attempts() -> Value {
    json!({
        "allOf": [
            { "$ref": "#/components/schemas/Run" },
            {
                "type": "object",
                "required": ["attempts"],
                "properties": { "attempts": { "type": "array", "items": { "$ref": "#/components/schemas/Attempt" } } },
            },
        ],
    })
}

pub fn attempt() -> Value {
    let verdicts: Vec<&str> = RequestState::ALL.iter().map(|verdict| verdict.word()).collect();
    json!({
        "type": "object",
        "description": "A worker's try that did not end its run, or any try in a batch.",
        "required": ["epoch", "status", "code", "reason", "worker", "started_at", "ended_at", "batch_id", "verdict",
            "cost_usd"],
        "properties": {
            "epoch": { "type": "integer", "minimum": 1 },
            "status": { "type": "string" },
            "code": maybe("string"),
            "reason": maybe("string"),
            "worker": maybe("string"),
            "started_at": time(),
            "ended_at": { "oneOf": [time(), { "type": "null" }] },
            "batch_id": { "oneOf": [id_schema("bat"), { "type": "null" }] },
            "verdict": nullable(json!({ "type": "string", "enum": verdicts })),
            "cost_usd": nullable(usd()),
        },
    })
}

pub fn verdicts() -> Value {
    json!({
        "type": "object",
        "required": ["data", "accepted", "rejected"],
        "properties": {
            "data": { "type": "array", "items": { "$ref": "#/components/schemas/Verdict" } },
            "accepted": { "type": "integer", "minimum": 0 },
            "rejected": { "type": "integer", "minimum": 0 },
        },
    })
}

pub fn verdict() -> Value {
    json!({
        "type": "object",
        "description": "Either `run` or `error`.",
        "required": ["index", "status"],
        "properties": {
            "index": { "type": "integer", "minimum": 0, "description": "Place among what was sent, from 0." },
            "status": { "type": "integer", "description": "What it would have been answered with by itself." },
            "run": { "$ref": "#/components/schemas/Run" },
            "error": {
                "type": "object",
                "required": ["code", "detail", "errors"],
                "properties": {
                    "code": { "type": "string" },
                    "detail": { "type": "string" },
                    "errors": { "type": "array", "items": { "$ref": "#/components/schemas/FieldError" } },
                },
            },
        },
        "oneOf": [{ "required": ["run"] }, { "required": ["error"] }],
    })
}
