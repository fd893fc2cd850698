//! Schemas of sweeps, and their operations.

use super::operation::{Body, JSON, Operation, Shape, json as schema, of_operator, ok, page};
use super::schemas::{maybe, strict, time};
use actors::sweeper::Kind;
use serde_json::{Value, json};

pub const LIST: Operation = of_operator(
    ("GET", "/sweeps"),
    "sweeps_list",
    "How each kind of sweep last went",
    "admin",
    "",
    &[ok("All kinds.", page("Sweep"))],
);

pub const RUN: Operation = Operation {
    body: Some(Body { forms: &[(JSON, Shape::Named("SweepRun"))], example: None, required: false }),
    refusals: &[409],
    ..of_operator(
        ("POST", "/sweeps/{kind}/run"),
        "sweeps_run",
        "Do one go of a kind now, or tell what it would find",
        "admin",
        "On the node that is asked, beside the one that does it by itself. Kinds that walk over the store do a part of it \
         and name the place where the next go begins.",
        &[ok("What it came to.", schema("SweepDone"))],
    )
};

pub fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.word()).collect()
}

pub fn sweep() -> Value {
    let count = json!({ "type": ["integer", "null"], "minimum": 0 });
    json!({
        "type": "object",
        "required": ["kind", "last_at", "took_seconds", "found", "found_in_all", "node"],
        "properties": {
            "kind": { "type": "string", "enum": kinds() },
            "last_at": { "oneOf": [time(), { "type": "null" }] },
            "took_seconds": maybe("number"),
            "found": count,
            "found_in_all": count,
            "node": maybe("string"),
        },
    })
}

pub fn run() -> Value {
    strict(
        &[],
        json!({
            "dry_run": { "type": "boolean", "default": false },
            "after": { "type": "string", "minLength": 1, "maxLength": 512, "pattern": "^[ -~]+$" },
        }),
    )
}

pub fn done() -> Value {
    json!({
        "type": "object",
        "required": ["kind", "dry_run", "found", "took_seconds", "next_after", "node"],
        "properties": {
            "kind": { "type": "string", "enum": kinds() },
            "dry_run": { "type": "boolean" },
            "found": { "type": "integer", "minimum": 0 },
            "took_seconds": { "type": "number", "minimum": 0 },
            "next_after": maybe("string"),
            "node": { "type": "string" },
        },
    })
}
