//! Examples, each of which fits its schema.

use serde_json::{Value, json};

pub const RUN: &str = "run_01m7z98h4682mz3gf7qqbcvmfg";
const TOKEN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

pub fn named(name: &str) -> Value {
    match name {
        "run" => run(),
        "run_create" => json!({ "task": "noop", "payload": { "input": "a.png" }, "tags": ["nightly"] }),
        "run_patch" => json!({ "priority": 600, "tags": ["urgent"] }),
        "verdicts" => {
            let error = json!({
                "code": "invalid_field",
                "detail": "/task: is missing",
                "errors": [{ "pointer": "/task", "code": "required", "detail": "is missing" }],
            });
            json!({
                "data": [{ "index": 0, "status": 201, "run": run() }, { "index": 1, "status": 400, "error": error }],
                "accepted": 1,
                "rejected": 1,
            })
        }
        "lease_request" => json!({ "tasks": ["work"], "worker": "host-1", "max_items": 1, "wait_seconds": 20 }),
        "leases" => json!({
            "data": [{
                "run_id": RUN,
                "task": "work",
                "queue": "work",
                "attempt": 1,
                "max_attempts": 3,
                "payload": { "input": "a.png" },
                "lease_token": TOKEN,
                "lease_until": "2026-11-21T14:49:12.166Z",
                "max_duration_seconds": null,
            }],
        }),
        "heartbeat" => json!({ "run_id": RUN, "lease_token": TOKEN, "lease_seconds": 60 }),
        "output" => json!({ "run_id": RUN, "lease_token": TOKEN, "stream": "stdout", "seq": 0, "data": "hello\n" }),
        "complete" => json!({ "run_id": RUN, "lease_token": TOKEN, "output": { "width": 640 } }),
        "fail" => json!({ "run_id": RUN, "lease_token": TOKEN, "code": "exit_1", "reason": "no such file" }),
        "job_create" => {
            json!({ "pool": "summarise", "scope": { "since": "2026-11-01" }, "limits": { "max_usd": "20.00" } })
        }
        "batch_adopt" => json!({ "provider_batch_id": "batch_6743a1f0" }),
        "session" => super::sessions::example(),
        "session_open" => json!({ "type": "review", "metadata": { "branch": "main" } }),
        "session_transition" => json!({ "phase": "reviews", "round": 1 }),
        "settled" => json!({ "run_id": RUN, "status": "succeeded" }),
        // The table names only what is here; a test sees to it.
        _ => Value::Null,
    }
}

fn run() -> Value {
    json!({
        "id": RUN,
        "env": "default/dev",
        "task": "noop",
        "queue": "noop",
        "status": "queued",
        "priority": 0,
        "payload": { "input": "a.png" },
        "tags": ["nightly"],
        "metadata": {},
        "concurrency_key": null,
        "idempotency_key": null,
        "source": "backfill",
        "session_id": null,
        "replay_of": null,
        "attempt": 0,
        "max_attempts": 3,
        "max_duration_seconds": null,
        "accepted_at": "2026-11-21T14:48:12.166Z",
        "not_before": null,
        "expires_at": null,
        "started_at": null,
        "finished_at": null,
        "cancel_requested": false,
        "worker": null,
        "outcome": null,
        "version": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::OPERATIONS;

    #[test]
    fn every_example_that_is_named_is_there() {
        for operation in OPERATIONS {
            let of_body = operation.body.as_ref().and_then(|body| body.example);
            let of_answers = operation.answers.iter().filter_map(|answer| answer.example);
            for name in of_body.into_iter().chain(of_answers) {
                assert!(named(name).is_object(), "{}: {name}", operation.id);
            }
        }
    }
}
