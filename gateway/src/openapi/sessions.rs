//! Schemas of sessions, and their operations.

use super::examples::RUN;
use super::operation::{Answer, Body, JSON, Operation, Shape, json as schema, ok, page};
use super::parameters::{id_schema, name_schema};
use super::schemas::{maybe, strict, time};
use serde_json::{Value, json};
use storage::model::{Closing, SessionState};

const BASE: Operation = Operation {
    method: "POST",
    path: "/sessions",
    id: "sessions_open",
    tag: "sessions",
    summary: "Open a session",
    description: "At the initial phase of its type. With the `session_id` of a closed one of the same type that one \
                  goes on, as its next round. A driver is a run that walks the session; asked for twice, its session is \
                  there once.",
    scope: "runs:write",
    parameters: &[],
    body: Some(Body { forms: &[(JSON, Shape::Named("SessionOpen"))], example: Some("session_open"), required: true }),
    answers: &[
        Answer {
            status: 201,
            what: "It is open.",
            form: schema("Session"),
            headers: &["Location"],
            example: Some("session"),
        },
        ok("It goes on, or was there already.", schema("Session")),
    ],
    refusals: &[404, 409],
};

pub const OPEN: Operation = BASE;

pub const LIST: Operation = Operation {
    method: "GET",
    id: "sessions_list",
    summary: "Sessions, newest first",
    description: "",
    scope: "runs:read",
    parameters: &["session_status", "session_type", "limit", "cursor"],
    body: None,
    answers: &[ok("A page of sessions.", page("Session"))],
    refusals: &[],
    ..BASE
};

pub const GET: Operation = Operation {
    method: "GET",
    path: "/sessions/{id}",
    id: "sessions_get",
    summary: "One session, with what has happened to it",
    description: "Its last 200 events.",
    scope: "runs:read",
    body: None,
    answers: &[ok("The session.", schema("SessionWithEvents"))],
    refusals: &[],
    ..BASE
};

const CHANGED: &[Answer] = &[ok("How it stands now.", schema("Session"))];

pub const TRANSITION: Operation = Operation {
    path: "/sessions/{id}/transition",
    id: "sessions_transition",
    summary: "Go to another phase",
    description: "Along the graph of its type; from a completed round to the initial phase of the next one. What the \
                  graph does not allow is refused with `allowed`, and leaves no trace.",
    body: Some(Body {
        forms: &[(JSON, Shape::Named("SessionTransition"))],
        example: Some("session_transition"),
        required: true,
    }),
    answers: CHANGED,
    refusals: &[409],
    ..BASE
};

pub const COMPLETE_ROUND: Operation = Operation {
    path: "/sessions/{id}/complete-round",
    id: "sessions_complete_round",
    summary: "Complete the round",
    description: "From a phase that the terminal one may follow. A round is completed once; asked again, the first time \
                  holds. `result` is kept with it.",
    body: Some(Body { forms: &[(JSON, Shape::Named("SessionComplete"))], example: None, required: false }),
    ..TRANSITION
};

pub const CLOSE: Operation = Operation {
    path: "/sessions/{id}/close",
    id: "sessions_close",
    summary: "Close a session",
    description: "As `complete` only once its round is; as `aborted` at any time. Its runs that have not ended are \
                  cancelled, but not its driver. Closed again, it stays as it was closed first.",
    body: Some(Body { forms: &[(JSON, Shape::Named("SessionClose"))], example: None, required: false }),
    ..TRANSITION
};

fn round() -> Value {
    json!({
        "type": "integer", "format": "int64", "minimum": 1, "maximum": i64::MAX,
        "description": "The round that is meant; refused if it is another one by now.",
    })
}

pub fn open() -> Value {
    let id = json!({ "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$" });
    strict(
        &["type"],
        json!({ "type": phase(), "metadata": { "type": "object" }, "session_id": id, "driver_run_id": id }),
    )
}

fn phase() -> Value {
    let mut name = name_schema();
    name["maxLength"] = json!(64);
    name
}

pub fn transition() -> Value {
    strict(&["phase"], json!({ "phase": phase(), "round": round() }))
}

pub fn complete() -> Value {
    strict(&[], json!({ "result": { "type": "object" }, "round": round() }))
}

pub fn close() -> Value {
    let outcome = json!({ "type": "string", "enum": ["complete", "aborted"], "default": "complete" });
    strict(&[], json!({ "outcome": outcome, "round": round() }))
}

pub fn states() -> Vec<&'static str> {
    SessionState::ALL.iter().map(|state| state.word()).collect()
}

pub fn session() -> Value {
    let outcomes: Vec<Value> = Closing::ALL.iter().map(|closing| json!(closing.word())).chain([Value::Null]).collect();
    let phases = json!({ "type": "array", "items": { "type": "string" } });
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["id", "env", "type", "status", "outcome", "round", "phase", "round_completed", "allowed",
            "remaining", "driver_run_id", "resumes", "max_resumes", "metadata", "opened_at", "moved_at", "closed_at"],
        "properties": {
            "id": id_schema("ses"),
            "env": { "type": "string" },
            "type": { "type": "string" },
            "status": { "type": "string", "enum": states() },
            "outcome": { "enum": outcomes },
            "round": { "type": "integer", "minimum": 1 },
            "phase": { "type": "string" },
            "phase_number": maybe("integer"),
            "round_completed": { "type": "boolean" },
            "allowed": phases,
            "remaining": phases,
            "driver_run_id": maybe("string"),
            "resumes": count,
            "max_resumes": count,
            "metadata": { "type": ["object", "null"] },
            "opened_at": time(),
            "moved_at": time(),
            "closed_at": { "oneOf": [time(), { "type": "null" }] },
        },
    })
}

pub fn with_events() -> Value {
    let mut whole = session();
    whole["properties"]["events"] = json!({ "type": "array", "items": { "type": "object" } });
    if let Some(required) = whole["required"].as_array_mut() {
        required.push(json!("events"));
    }
    whole
}

pub fn example() -> Value {
    json!({
        "id": "ses_01m7z98h4682mz3gf7qqbcvmfg",
        "env": "default/dev",
        "type": "review",
        "status": "active",
        "outcome": null,
        "round": 1,
        "phase": "context",
        "phase_number": 1,
        "round_completed": false,
        "allowed": ["reviews"],
        "remaining": ["reviews", "synthesis", "complete"],
        "driver_run_id": RUN,
        "resumes": 0,
        "max_resumes": 2,
        "metadata": {},
        "opened_at": "2026-11-21T14:48:12.166Z",
        "moved_at": "2026-11-21T14:48:12.166Z",
        "closed_at": null,
    })
}
