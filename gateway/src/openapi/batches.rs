//! Schemas of provider batches, and their operations.

use super::operation::{Body, JSON, Operation, Shape, json as schema, of_batch, ok, page};
use super::parameters::{batch_states, id_schema, sources};
use super::schemas::{maybe, strict, time};
use serde_json::{Value, json};

pub const LIST: Operation = Operation {
    method: "GET",
    path: "/batches",
    id: "batches_list",
    tag: "batches",
    summary: "Batches, newest first",
    description: "",
    scope: "jobs:read",
    parameters: &["batch_state", "limit", "cursor"],
    body: None,
    answers: &[ok("A page of batches.", page("Batch"))],
    refusals: &[],
};

pub const CANCEL: Operation = of_batch(
    ("POST", "/batches/{id}/cancel"),
    "batches_cancel",
    "Have a batch stopped at its provider",
    "jobs:write",
    "What it has carried out is still delivered and billed; the rest is queued again and uses up no try, so that the \
     job sends it again unless it is suspended.",
    &[ok("The batch.", schema("Batch"))],
    &[409],
);

pub const ADOPT: Operation = Operation {
    method: "POST",
    path: "/batches/{id}/adopt",
    id: "batches_adopt",
    tag: "batches",
    summary: "Say which provider batch one of unknown fate is",
    description: "It is collected then; that it is the right one is proven by its results.",
    scope: "jobs:write",
    parameters: &[],
    body: Some(Body { forms: &[(JSON, Shape::Named("BatchAdopt"))], example: Some("batch_adopt"), required: true }),
    answers: &[ok("The batch.", schema("Batch"))],
    refusals: &[409],
};

pub const ABANDON: Operation = Operation {
    method: "POST",
    path: "/batches/{id}/abandon",
    id: "batches_abandon",
    tag: "batches",
    summary: "Give a batch up",
    description: "Its runs are queued again. If the provider has it after all they are billed twice, which has to be \
                  accepted where that is not known.",
    scope: "jobs:write",
    parameters: &[],
    body: Some(Body { forms: &[(JSON, Shape::Named("BatchAbandon"))], example: None, required: false }),
    answers: &[ok("The batch.", schema("Batch"))],
    refusals: &[409],
};

pub fn adopt() -> Value {
    strict(
        &["provider_batch_id"],
        json!({ "provider_batch_id": { "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$" } }),
    )
}

pub fn abandon() -> Value {
    strict(&[], json!({ "accept_double_billing": { "type": "boolean", "default": false } }))
}

pub fn batch() -> Value {
    json!({
        "type": "object",
        "required": ["id", "state", "mode", "env", "job_id", "source", "round", "provider", "model", "requests",
            "created_at"],
        "properties": {
            "id": id_schema("bat"),
            "state": { "type": "string", "enum": batch_states() },
            "mode": { "type": "string", "enum": ["batch", "live", "canary"] },
            "reason": maybe("string"),
            "env": { "type": "string" },
            "job_id": { "type": "string" },
            "source": { "type": "string", "enum": sources() },
            "round": { "type": "integer", "minimum": 1 },
            "provider": { "type": "string" },
            "model": { "type": "string" },
            "requests": { "type": "object" },
            "provider_batch_id": maybe("string"),
            "created_at": time(),
        },
    })
}
