//! The table of operations: one entry for each route, in the order of `api::ROUTES`.

/// One operation of the API.
#[derive(Debug)]
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub scope: &'static str,
    /// Of the query and the headers; those of the path follow from it.
    pub parameters: &'static [&'static str],
    pub body: Option<Body>,
    pub answers: &'static [Answer],
    /// Statuses of refusal beyond those that follow from the rest.
    pub refusals: &'static [u16],
}

#[derive(Debug)]
pub struct Body {
    pub forms: &'static [(&'static str, Shape)],
    pub example: Option<&'static str>,
}

/// An answer of success.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub what: &'static str,
    pub form: Option<(&'static str, Shape)>,
    pub headers: &'static [&'static str],
    pub example: Option<&'static str>,
}

/// What a body is.
#[derive(Debug)]
pub enum Shape {
    Named(&'static str),
    PageOf(&'static str),
    Text,
    Bytes,
}

pub const TAGS: &[(&str, &str)] = &[
    ("runs", "One run is one durable unit of work."),
    ("events", "What happens, as server-sent events."),
    ("queues", "What can be run, and where it waits."),
    ("workers", "Pull workers take runs over HTTP, in any language."),
    ("operations", "What waits, and who is there."),
];

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

const fn json(name: &'static str) -> Option<(&'static str, Shape)> {
    Some((JSON, Shape::Named(name)))
}

const fn page(name: &'static str) -> Option<(&'static str, Shape)> {
    Some((JSON, Shape::PageOf(name)))
}

const fn ok(what: &'static str, form: Option<(&'static str, Shape)>) -> Answer {
    Answer { status: 200, what, form, headers: &[], example: None }
}

/// What an operator may ask for or want done; nothing of it has a body.
const fn of_operator(
    (method, path): (&'static str, &'static str),
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    answers: &'static [Answer],
) -> Operation {
    Operation {
        method,
        path,
        id,
        tag: "operations",
        summary,
        description,
        scope: "admin",
        parameters: &[],
        body: None,
        answers,
        refusals: &[],
    }
}

/// An operation of the worker's protocol; each has a body of its own and a short answer.
const fn of_worker(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    body: Body,
    answers: &'static [Answer],
) -> Operation {
    Operation {
        method: "POST",
        path,
        id,
        tag: "workers",
        summary,
        description,
        scope: "workers",
        parameters: &[],
        body: Some(body),
        answers,
        refusals: &[404, 409],
    }
}

const LEASE: &[(&str, Shape)] = &[(JSON, Shape::Named("LeaseRequest"))];
const HEARTBEAT: &[(&str, Shape)] = &[(JSON, Shape::Named("Heartbeat"))];
const OUTPUT: &[(&str, Shape)] = &[(JSON, Shape::Named("Output"))];
const COMPLETE: &[(&str, Shape)] = &[(JSON, Shape::Named("Complete"))];
const FAIL: &[(&str, Shape)] = &[(JSON, Shape::Named("Fail"))];
const RELEASE: &[(&str, Shape)] = &[(JSON, Shape::Named("Release"))];

const SETTLED: Answer = Answer {
    status: 200,
    what: "What became of the run.",
    form: json("Settled"),
    headers: &[],
    example: Some("settled"),
};

const CREATED: &[&str] = &["Location", "Idempotency-Replayed"];

pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "POST",
        path: "/runs",
        id: "runs_create",
        tag: "runs",
        summary: "Make a run",
        description: "The answer comes when the run is durable. With an idempotency key the same request again gets \
                      the first answer, and another request with the key is refused with 422.",
        scope: "runs:write",
        parameters: &["idempotency_key"],
        body: Some(Body { forms: &[(JSON, Shape::Named("RunCreate"))], example: Some("run_create") }),
        answers: &[
            Answer {
                status: 201,
                what: "It waits to be carried out.",
                form: json("Run"),
                headers: CREATED,
                example: Some("run"),
            },
            Answer {
                status: 202,
                what: "It is in the buffer and will be let through; its id is final.",
                form: json("Run"),
                headers: CREATED,
                example: None,
            },
        ],
        refusals: &[409, 422, 507],
    },
    Operation {
        method: "GET",
        path: "/runs",
        id: "runs_list",
        tag: "runs",
        summary: "List runs, newest first",
        description: "Buffered runs are included. Payloads are read one by one.",
        scope: "runs:read",
        parameters: &[
            "status",
            "task",
            "queue_filter",
            "tag",
            "source",
            "accepted_after",
            "accepted_before",
            "limit",
            "cursor",
        ],
        body: None,
        answers: &[ok("A page of runs.", page("Run"))],
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/runs/batch",
        id: "runs_create_batch",
        tag: "runs",
        summary: "Make up to 1,000 runs at once",
        description: "`{runs: […]}`, or a run a line. Each gets a verdict, in the order in which they were sent.",
        scope: "runs:write",
        parameters: &[],
        body: Some(Body {
            forms: &[(JSON, Shape::Named("RunBatch")), ("application/x-ndjson", Shape::Text)],
            example: None,
        }),
        answers: &[Answer {
            status: 200,
            what: "A verdict for each.",
            form: json("Verdicts"),
            headers: &[],
            example: Some("verdicts"),
        }],
        refusals: &[422, 507],
    },
    Operation {
        method: "GET",
        path: "/runs/{id}",
        id: "runs_get",
        tag: "runs",
        summary: "One run with the attempts that did not end it",
        description: "",
        scope: "runs:read",
        parameters: &["if_none_match"],
        body: None,
        answers: &[
            Answer { status: 200, what: "The run.", form: json("RunWithAttempts"), headers: &["ETag"], example: None },
            Answer {
                status: 304,
                what: "It is what the ETag stands for.",
                form: None,
                headers: &["ETag"],
                example: None,
            },
        ],
        refusals: &[],
    },
    Operation {
        method: "PATCH",
        path: "/runs/{id}",
        id: "runs_patch",
        tag: "runs",
        summary: "Change tags, metadata, priority or the time of a run",
        description: "With `If-Match` it is changed only if it is still what it was when it was read.",
        scope: "runs:write",
        parameters: &["if_match"],
        body: Some(Body { forms: &[(JSON, Shape::Named("RunPatch"))], example: Some("run_patch") }),
        answers: &[Answer {
            status: 200,
            what: "The run as it is now.",
            form: json("Run"),
            headers: &["ETag"],
            example: None,
        }],
        refusals: &[409, 412],
    },
    Operation {
        method: "POST",
        path: "/runs/{id}/cancel",
        id: "runs_cancel",
        tag: "runs",
        summary: "Cancel a run",
        description: "A run that has ended stays as it ended.",
        scope: "runs:write",
        parameters: &[],
        body: None,
        answers: &[
            ok("It is cancelled, or had ended before.", json("Run")),
            Answer {
                status: 202,
                what: "It is being carried out; its worker has been told.",
                form: json("Run"),
                headers: &[],
                example: None,
            },
        ],
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/runs/{id}/replay",
        id: "runs_replay",
        tag: "runs",
        summary: "Make a new run of the same payload",
        description: "",
        scope: "runs:write",
        parameters: &[],
        body: None,
        answers: &[
            Answer {
                status: 201,
                what: "The new run; `replay_of` names the old one.",
                form: json("Run"),
                headers: &["Location"],
                example: None,
            },
            Answer {
                status: 202,
                what: "The same, and it is buffered.",
                form: json("Run"),
                headers: &["Location"],
                example: None,
            },
        ],
        refusals: &[409, 507],
    },
    Operation {
        method: "GET",
        path: "/runs/{id}/output",
        id: "runs_output",
        tag: "runs",
        summary: "What a run has written",
        description: "From any node. Without `epoch` that of the last attempt that wrote anything; with `follow` \
                      until the run has ended.",
        scope: "runs:read",
        parameters: &["stream", "tail", "follow", "epoch"],
        body: None,
        answers: &[Answer {
            status: 200,
            what: "The bytes as they were written.",
            form: Some(("text/plain", Shape::Bytes)),
            headers: &["X-Tidegate-Total-Bytes", "X-Tidegate-Attempt", "X-Tidegate-Truncated"],
            example: None,
        }],
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/runs/{id}/events",
        id: "runs_events",
        tag: "events",
        summary: "What happens to a run, to its end",
        description: "`accepted`, `started`, `requeued`, `finished`, and `end` when there is no more. Goes on after \
                      `Last-Event-ID`, on any node.",
        scope: "runs:read",
        parameters: &["last_event_id"],
        body: None,
        answers: &[ok("Events.", Some((EVENTS, Shape::Text)))],
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/events",
        id: "events",
        tag: "events",
        summary: "What is settled on this node from now on",
        description: "Does not end by itself. `resync` says that something was missed: read the list.",
        scope: "runs:read",
        parameters: &["status", "task", "last_event_id"],
        body: None,
        answers: &[ok("Events.", Some((EVENTS, Shape::Text)))],
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/tasks",
        id: "tasks_list",
        tag: "queues",
        summary: "What can be run",
        description: "",
        scope: "runs:read",
        parameters: &[],
        body: None,
        answers: &[ok("All tasks of the configuration.", page("Task"))],
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/queues",
        id: "queues_list",
        tag: "queues",
        summary: "The queues that hold something or were paused",
        description: "",
        scope: "runs:read",
        parameters: &[],
        body: None,
        answers: &[ok("All of them.", page("Queue"))],
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/queues/{queue}/pause",
        id: "queues_pause",
        tag: "queues",
        summary: "Start nothing more from a queue",
        description: "What is under way goes on to its end.",
        scope: "queues:write",
        parameters: &[],
        body: None,
        answers: &[ok("The queue.", json("Queue"))],
        refusals: &[],
    },
    Operation {
        method: "POST",
        path: "/queues/{queue}/resume",
        id: "queues_resume",
        tag: "queues",
        summary: "Let a paused queue go on",
        description: "",
        scope: "queues:write",
        parameters: &[],
        body: None,
        answers: &[ok("The queue.", json("Queue"))],
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/workers",
        id: "workers_list",
        tag: "workers",
        summary: "Pull workers that have asked for work lately",
        description: "",
        scope: "runs:read",
        parameters: &[],
        body: None,
        answers: &[ok("Those of the last five minutes.", page("Worker"))],
        refusals: &[],
    },
    of_worker(
        "/workers/lease",
        "workers_lease",
        "Take runs",
        "Waits up to `wait_seconds` for the first. Each run is the worker's until `lease_until`, which heartbeats \
         move; `lease_token` proves it.",
        Body { forms: LEASE, example: Some("lease_request") },
        &[Answer {
            status: 200,
            what: "The runs; none if none came in time.",
            form: json("Leases"),
            headers: &[],
            example: Some("leases"),
        }],
    ),
    of_worker(
        "/workers/heartbeat",
        "workers_heartbeat",
        "Keep a run",
        "A third of the lease is a good time between two. 409 says that the run is not the worker's any more.",
        Body { forms: HEARTBEAT, example: Some("heartbeat") },
        &[ok("Until when it is kept, and whether it is to be given up.", json("Kept"))],
    ),
    of_worker(
        "/workers/output",
        "workers_output",
        "Append to what a run has written",
        "`seq` counts from 0 in each stream; a piece that comes twice counts once, and one that is too early is 409.",
        Body { forms: OUTPUT, example: Some("output") },
        &[ok("The number of the next piece.", json("NextPiece"))],
    ),
    of_worker(
        "/workers/complete",
        "workers_complete",
        "Say that a run has succeeded",
        "",
        Body { forms: COMPLETE, example: Some("complete") },
        &[SETTLED],
    ),
    of_worker(
        "/workers/fail",
        "workers_fail",
        "Say that an attempt has failed",
        "With `retry` it is tried again while attempts are left.",
        Body { forms: FAIL, example: Some("fail") },
        &[SETTLED],
    ),
    of_worker(
        "/workers/release",
        "workers_release",
        "Give a run back untouched",
        "It does not count as an attempt.",
        Body { forms: RELEASE, example: None },
        &[SETTLED],
    ),
    Operation {
        method: "GET",
        path: "/buffer",
        id: "buffer_status",
        tag: "operations",
        summary: "How much waits to be let through",
        description: "",
        scope: "buffer:read",
        parameters: &[],
        body: None,
        answers: &[ok("Depths by env.", json("BufferStatus"))],
        refusals: &[],
    },
    Operation {
        method: "GET",
        path: "/buffer/entries",
        id: "buffer_entries",
        tag: "operations",
        summary: "What waits to be let through, oldest first",
        description: "",
        scope: "buffer:read",
        parameters: &["limit", "cursor"],
        body: None,
        answers: &[ok("A page of entries.", page("BufferEntry"))],
        refusals: &[],
    },
    of_operator(("GET", "/nodes"), "nodes_list", "The nodes that are there", "", &[ok("All of them.", page("Node"))]),
    of_operator(
        ("POST", "/nodes/{id}/drain"),
        "nodes_drain",
        "Let a node take nothing on any more",
        "It finishes what it has, is not ready any more, and can be stopped once it is idle.",
        &[ok("The node.", json("Node"))],
    ),
    of_operator(
        ("GET", "/actors"),
        "actors_list",
        "The supervision tree of this node",
        "",
        &[ok("All of it.", page("Actor"))],
    ),
];
