//! Schemas of sweeps, and their operations.

use super::operation::{Operation, json as schema, of_operator, ok, page};
use super::schemas::{maybe, time};
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
    refusals: &[409],
    ..of_operator(
        ("POST", "/sweeps/{kind}/run"),
        "sweeps_run",
        "Do one pass of a kind now",
        "admin",
        "On the node that is asked, beside the one that does it by itself.",
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

pub fn done() -> Value {
    json!({
        "type": "object",
        "required": ["kind", "found", "took_seconds", "node"],
        "properties": {
            "kind": { "type": "string", "enum": kinds() },
            "found": { "type": "integer", "minimum": 0 },
            "took_seconds": { "type": "number", "minimum": 0 },
            "node": { "type": "string" },
        },
    })
}
