//! S3: nobody sets what is not theirs to set, and no answer has a member that its schema does not have.

use super::{ALL_SCOPES, LATER, NOBODYS, caller, key, request};
use gateway::api::ROUTES;
use gateway::openapi::document;
use harness::{Client, Database, Server, eventually};
use serde_json::{Value, json};

/// What the system alone says about a run.
const NOT_THEIRS: [&str; 28] = [
    "id",
    "run_id",
    "env",
    "org",
    "tenant",
    "state",
    "status",
    "epoch",
    "attempt",
    "attempts",
    "version",
    "worker",
    "outcome",
    "accepted_at",
    "started_at",
    "finished_at",
    "expires_at",
    "replay_of",
    "cancel_requested",
    "lane",
    "basin",
    "lease_token",
    "lease_until",
    "node_id",
    "buffered",
    "rank",
    "key_id",
    "scopes",
];

/// The members that a body of this route may have.
fn allowed(method: &str, route: &str) -> Vec<String> {
    let document = document();
    let content = &document["paths"][route][method.to_lowercase()]["requestBody"]["content"]["application/json"];
    let name = content["schema"]["$ref"].as_str().expect("a schema of its own").rsplit('/').next().expect("a name");
    let name = if name == "RunBatch" { "RunCreate" } else { name };
    let properties = document["components"]["schemas"][name]["properties"].as_object().expect("members").clone();
    properties.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn s3_no_request_sets_state_epoch_tenant_or_attempt() {
    let mut server = Server::on(Database::Sqlite).config(LATER).arg("--auth=keys");
    let key = key(&server, "acme/prod", ALL_SCOPES, &[]);
    server.again();
    let mut client = caller(&server, &key);
    let run = client.run(&json!({"task": "later"}));
    let before = client.read(&run);
    let mut tried = 0;
    for (method, route) in ROUTES {
        let (path, Some(body)) = request(method, route, &run) else { continue };
        let allowed = allowed(method, route);
        for name in NOT_THEIRS.into_iter().filter(|name| !allowed.iter().any(|known| known == name)) {
            let mut body: Value = serde_json::from_str(&body).expect("a body");
            let inner = if *route == "/runs/batch" { &mut body["runs"][0] } else { &mut body };
            inner[name] = json!("succeeded");
            let answer = client.send(method, &path, Some(&body.to_string())).expect("an answer");
            tried += 1;
            if *route == "/runs/batch" {
                let verdict = &answer.is(200).json()["data"][0];
                assert_eq!(verdict["error"]["errors"][0]["code"], "unknown_field", "{name}: {verdict}");
                continue;
            }
            answer.is_problem(400, "unknown_field");
            assert!(answer.text().contains(name), "{method} {route} {name}: {answer:?}");
        }
    }
    assert!(tried > 200, "{tried}");
    assert_eq!(client.read(&run), before);
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 1);
    assert_eq!(server.number("SELECT COUNT(*) FROM leases"), 0);
    server.stop();
}

/// Members of a value for which its schema has no name, as pointers.
fn unknown(document: &Value, schemas: &[&Value], value: &Value, at: &str, found: &mut Vec<String>) {
    let schemas = flat(document, schemas);
    let open = schemas.iter().all(|schema| schema.get("properties").is_none() && schema.get("items").is_none());
    if open {
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let of: Vec<&Value> = schemas.iter().filter_map(|schema| schema["properties"].get(name)).collect();
                if of.is_empty() {
                    found.push(format!("{at}/{name}"));
                } else {
                    unknown(document, &of, value, &format!("{at}/{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            let of: Vec<&Value> = schemas.iter().filter_map(|schema| schema.get("items")).collect();
            items.iter().for_each(|item| unknown(document, &of, item, &format!("{at}/0"), found));
        }
        _ => {}
    }
}

/// References followed, and what is made of several schemas taken apart.
fn flat<'v>(document: &'v Value, schemas: &[&'v Value]) -> Vec<&'v Value> {
    let mut all = Vec::new();
    for schema in schemas {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = document.pointer(reference.trim_start_matches('#')).expect("a reference that leads somewhere");
            all.extend(flat(document, &[target]));
            continue;
        }
        all.push(*schema);
        for word in ["allOf", "oneOf", "anyOf"] {
            let parts: Vec<&Value> = schema[word].as_array().into_iter().flatten().collect();
            all.extend(flat(document, &parts));
        }
    }
    all
}

/// What an answer says beyond its schema.
fn surplus(client: &mut Client, method: &str, route: &str, path: &str, body: Option<&str>) -> Vec<String> {
    let answer = client.send(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let document = document();
    let answers = &document["paths"][route][method.to_lowercase()]["responses"];
    let described = answers.get(answer.status.to_string());
    let described = described.unwrap_or_else(|| panic!("{method} {path}: {answer:?} is not documented"));
    let media = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
    let schema = &described["content"][&media]["schema"];
    let mut found = Vec::new();
    if media.ends_with("json") {
        assert!(schema.is_object(), "{method} {path}: {media} is not documented for {}", answer.status);
        unknown(&document, &[schema], &answer.json(), &format!("{method} {path} {}", answer.status), &mut found);
    }
    found
}

#[test]
fn s3_answers_have_only_what_their_schemas_have() {
    let mut server = Server::on(Database::Sqlite).config(LATER).arg("--auth=keys");
    let key = key(&server, "acme/prod", ALL_SCOPES, &[]);
    server.again();
    let mut client = caller(&server, &key);
    let session = client.post("/sessions", &json!({"type": "review"})).is(201).field("id");
    let full = json!({"task": "later", "queue": "q", "priority": 3, "payload": {"a": 1}, "tags": ["t"],
        "metadata": {"m": {"n": 1}}, "concurrency_key": "c", "idempotency_key": "i", "max_attempts": 5,
        "max_duration_seconds": 9, "source": "daemon", "session_id": session, "ttl_seconds": 999});
    let run = client.run(&full);
    let work = json!({"tasks": ["later"], "worker": "w"});
    let mut lease = Value::Null;
    let mut take = |client: &mut Client| {
        eventually("the run is leased", || {
            lease = client.post("/workers/lease", &work).is(200).json()["data"][0].clone();
            lease.is_object()
        });
        json!({"run_id": lease["run_id"], "lease_token": lease["lease_token"]})
    };
    let held = take(&mut client);
    client.post("/workers/fail", &{
        let mut body = held.clone();
        body["reason"] = json!("why");
        body["retry_after_seconds"] = json!(0);
        body
    });
    let held = take(&mut client);
    let mut found = Vec::new();
    for (method, route) in ROUTES {
        let (path, body) = request(method, route, &run);
        if *route == "/events" {
            continue;
        }
        for path in [path, request(method, route, NOBODYS).0] {
            if route.ends_with("/events") && path.contains(&run) {
                continue;
            }
            found.extend(surplus(&mut client, method, route, &path, body.as_deref()));
            found.extend(surplus(&mut client, method, route, &path, Some("{")));
        }
    }
    let done = {
        let mut body = held;
        body["output"] = json!({"any": {"thing": 1}});
        body.to_string()
    };
    found.extend(surplus(&mut client, "POST", "/workers/complete", "/workers/complete", Some(&done)));
    found.extend(surplus(&mut client, "GET", "/runs/{id}", &format!("/runs/{run}"), None));
    found.extend(surplus(&mut client, "POST", "/runs", "/runs", Some(&full.to_string())));
    assert!(found.is_empty(), "{found:#?}");
    server.stop();
}
