//! Schemas of jobs, and the operations that make and list them.

use super::operation::{Answer, Body, EVENTS as STREAM, JSON, Operation, Shape, json as schema, of_job, ok, page};
use super::parameters::{id_schema, name_schema, sources};
use super::runs::{key, priority, session_name, tags};
use super::schemas::{maybe, nullable, strict, time, usd};
use serde_json::{Value, json};
use storage::model::{JobState, StopReason};

pub const CREATE: Operation = Operation {
    method: "POST",
    path: "/jobs",
    id: "jobs_create",
    tag: "jobs",
    summary: "Make a job, or plan one",
    description: "A backfill takes what waits now and ends; a daemon stands and batches what comes. With \
                  `dry_run` nothing is written and no provider is asked. A second live job of the same pool and \
                  source is refused, naming the first.",
    scope: "jobs:write",
    parameters: &[],
    body: Some(Body { forms: &[(JSON, Shape::Named("JobCreate"))], example: Some("job_create"), required: true }),
    answers: &[
        Answer {
            status: 201,
            what: "It will be driven by the next node that can.",
            form: schema("Job"),
            headers: &["Location"],
            example: None,
        },
        ok("What it would do.", schema("JobPlan")),
    ],
    refusals: &[409],
};

pub const LIST: Operation = Operation {
    method: "GET",
    path: "/jobs",
    id: "jobs_list",
    tag: "jobs",
    summary: "Jobs, newest first",
    description: "",
    scope: "jobs:read",
    parameters: &["limit", "cursor"],
    body: None,
    answers: &[ok("A page of jobs.", page("Job"))],
    refusals: &[],
};

pub const GET: Operation = of_job(
    ("GET", "/jobs/{id}"),
    "jobs_get",
    "One job, with its rounds",
    "jobs:read",
    "",
    &[ok("The job.", schema("Job"))],
    &[],
);

pub const SUSPEND: Operation = of_job(
    ("POST", "/jobs/{id}/suspend"),
    "jobs_suspend",
    "Open no more batches for a job",
    "jobs:write",
    "What is in flight is collected. Once asked, asking again changes nothing.",
    &[ok("The job.", schema("Job"))],
    &[409],
);

pub const RESUME: Operation = of_job(
    ("POST", "/jobs/{id}/resume"),
    "jobs_resume",
    "Let a suspended job go on",
    "jobs:write",
    "The same job goes on with its next round.",
    &[ok("The job.", schema("Job"))],
    &[409],
);

pub const CANCEL: Operation = of_job(
    ("POST", "/jobs/{id}/cancel"),
    "jobs_cancel",
    "End a job",
    "jobs:write",
    "What is in flight is paid for and still collected; the rest waits for another job.",
    &[ok("The job.", schema("Job"))],
    &[409],
);

pub const EVENTS: Operation = of_job(
    ("GET", "/jobs/{id}/events"),
    "jobs_events",
    "What happens to a job",
    "jobs:read",
    "Its log from the beginning, or after `Last-Event-ID`, and its counts whenever they have changed.",
    &[Answer {
        status: 200,
        what: "Events, the last of them `end`.",
        form: Some((STREAM, Shape::Text)),
        headers: &[],
        example: None,
    }],
    &[],
);

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub fn create() -> Value {
    let day = "^[0-9]{4}-[0-9]{2}-[0-9]{2}";
    strict(
        &["pool"],
        json!({
            "pool": name_schema(),
            "source": { "type": "string", "enum": sources(), "default": "backfill" },
            "label": { "type": "string", "minLength": 1, "maxLength": 128 },
            "policy": { "type": "string", "enum": ["disjoint", "exclusive"], "default": "disjoint" },
            "scope": strict(&[], json!({
                "since": { "type": "string", "pattern": day, "description": "A date, from midnight UTC, or a time." },
                "queue": name_schema(),
                "filter": filter(),
            })),
            "period": strict(&[], json!({
                "seconds": { "type": "number", "minimum": 0.1, "maximum": 2_592_000, "default": 60 },
                "runs": { "type": "integer", "minimum": 1, "maximum": 1_000_000 },
                "bytes": { "type": "integer", "minimum": 1, "maximum": 1_i64 << 40 },
            })),
            "limits": strict(&[], json!({
                "max_usd": { "type": "string", "pattern": "^[0-9]{1,9}(\\.[0-9]{1,9})?$" },
                "max_rounds": { "type": "integer", "minimum": 1, "maximum": 1_000_000 },
                "max_wallclock_seconds": { "type": "number", "minimum": 1, "maximum": 31_622_400 },
                "max_batch_requests": { "type": "integer", "minimum": 1, "maximum": 50_000 },
            })),
            "dry_run": { "type": "boolean", "default": false },
        }),
    )
}

fn filter() -> Value {
    let told = |mut schema: Value, what: &str| {
        schema["description"] = what.into();
        schema
    };
    told(
        strict(
            &[],
            json!({
                "queue": told(name_schema(), "The same as beside the filter."),
                "tags": told(tags(), "It carries all of them."),
                "session_id": session_name(),
                "concurrency_key": key(),
                "priority_min": told(priority(), "It has this priority or a higher one."),
            }),
        ),
        "What must be true of a run, all of it.",
    )
}

fn filtered() -> Value {
    json!({
        "type": "object",
        "required": ["queue", "tags", "session_id", "concurrency_key", "priority_min"],
        "properties": {
            "queue": maybe("string"),
            "tags": { "type": "array", "items": { "type": "string" } },
            "session_id": maybe("string"),
            "concurrency_key": maybe("string"),
            "priority_min": maybe("integer"),
        },
    })
}

fn scope() -> Value {
    json!({
        "type": "object",
        "required": ["since", "until", "queue", "filter", "policy", "period"],
        "properties": {
            "since": nullable(time()),
            "until": nullable(time()),
            "queue": maybe("string"),
            "filter": filtered(),
            "policy": { "type": "string", "enum": ["disjoint", "exclusive"] },
            "period": maybe("object"),
        },
    })
}

pub fn job() -> Value {
    let words = |all: Vec<&str>| json!({ "type": "string", "enum": all });
    let states = words(JobState::ALL.iter().map(|state| state.word()).collect());
    let reasons = words(StopReason::ALL.iter().map(|reason| reason.word()).collect());
    let items = ["expected", "total", "succeeded", "failed", "queued", "running", "pending", "given_back"];
    let counts: serde_json::Map<String, Value> = items.iter().map(|name| ((*name).to_owned(), count())).collect();
    json!({
        "type": "object",
        "required": ["id", "env", "pool", "source", "state", "stop_reason", "clean", "detail", "items", "residue",
            "rounds", "spend_usd", "reserved_usd", "limits", "created_at", "started_at", "finished_at"],
        "properties": {
            "id": id_schema("job"),
            "label": { "type": "string" },
            "env": { "type": "string" },
            "pool": { "type": "string" },
            "source": { "type": "string", "enum": sources() },
            "scope": nullable(scope()),
            "state": states,
            "stop_reason": nullable(reasons),
            "clean": { "type": ["boolean", "null"], "description": "Nothing was left to do." },
            "detail": maybe("string"),
            "items": { "type": "object", "required": items, "properties": counts },
            "residue": count(),
            "rounds": count(),
            "spend_usd": nullable(usd()),
            "reserved_usd": usd(),
            "limits": { "type": "object" },
            "created_at": time(),
            "started_at": nullable(time()),
            "finished_at": nullable(time()),
        },
    })
}

pub fn plan() -> Value {
    json!({
        "type": "object",
        "required": ["dry_run", "pool", "source", "scope", "items", "more_than_looked_at", "not_requests", "unpriced",
            "body_bytes", "batches_planned", "worst_usd"],
        "properties": {
            "dry_run": { "const": true },
            "pool": { "type": "string" },
            "source": { "type": "string", "enum": sources() },
            "scope": scope(),
            "items": count(),
            "more_than_looked_at": { "type": "boolean" },
            "not_requests": count(),
            "unpriced": count(),
            "body_bytes": count(),
            "batches_planned": count(),
            "worst_usd": nullable(usd()),
        },
    })
}
