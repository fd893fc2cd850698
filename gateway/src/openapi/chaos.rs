//! Schemas of the supervision tree, of kills and of the audit, and their operations.

use super::operation::{Answer, Body, JSON, Operation, Shape, json as schema, of_operator, ok, page};
use super::schemas::{maybe, strict, time};
use serde_json::{Value, json};

pub const ACTORS: Operation = of_operator(
    ("GET", "/actors"),
    "actors_list",
    "The supervision tree of this node",
    "admin",
    "",
    &[ok("All of it.", page("Actor"))],
);

pub const KILL: Operation = Operation {
    body: Some(Body { forms: &[(JSON, Shape::Named("ActorKill"))], example: None, required: false }),
    refusals: &[409],
    ..of_operator(
        ("POST", "/actors/{name}/kill"),
        "actors_kill",
        "Kill an actor of this node on purpose",
        "chaos",
        "Only where `chaos.enabled` is true. It is rebuilt at once, and its death is told apart from real ones: it does \
         not use up the restart budget. Written into the audit before it is done.",
        &[Answer { status: 202, ..ok("It was told to die.", schema("ActorKilled")) }],
    )
};

pub const AUDIT: Operation = Operation {
    parameters: &["limit", "cursor"],
    ..of_operator(
        ("GET", "/audit"),
        "audit_list",
        "What was done to the system itself, newest first",
        "admin",
        "By callers of this env.",
        &[ok("A page of it.", page("Deed"))],
    )
};

pub fn actor() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["name", "up", "generation", "restarts", "injected", "recent_deaths", "restart_p99_seconds",
            "mailbox_depth", "silent_seconds", "last_exit", "last_panic"],
        "properties": {
            "name": { "type": "string" },
            "up": { "type": "boolean" },
            "generation": count,
            "restarts": count,
            "injected": { "type": "integer", "minimum": 0, "description": "Restarts after kills that were asked for." },
            "recent_deaths": { "type": "integer", "minimum": 0, "description": "That count towards the restart budget." },
            "restart_p99_seconds": maybe("number"),
            "mailbox_depth": { "type": "integer", "minimum": 0, "description": "Messages that it has not begun to handle." },
            "silent_seconds": { "type": ["number", "null"], "description": "Since a ping that it has not answered." },
            "last_exit": maybe("string"),
            "last_panic": maybe("string"),
        },
    })
}

pub fn kill() -> Value {
    strict(&[], json!({ "mode": { "type": "string", "enum": ["panic", "stop", "hang"], "default": "panic" } }))
}

pub fn killed() -> Value {
    json!({
        "type": "object",
        "required": ["name", "mode", "generation", "node"],
        "properties": {
            "name": { "type": "string" },
            "mode": { "type": "string", "enum": ["panic", "stop", "hang"] },
            "generation": { "type": "integer", "minimum": 1 },
            "node": { "type": "string" },
        },
    })
}

pub fn deed() -> Value {
    json!({
        "type": "object",
        "required": ["at", "node", "env", "key_id", "action", "target", "data"],
        "properties": {
            "at": time(),
            "node": { "type": "string" },
            "env": { "type": "string" },
            "key_id": maybe("string"),
            "action": { "type": "string" },
            "target": { "type": "string" },
            "data": { "type": "object" },
        },
    })
}
