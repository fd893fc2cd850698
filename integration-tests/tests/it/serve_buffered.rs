//! A buffered run is as real as any other: one script of everything that can be asked of a run, played to one
//! that went straight through and to one that is held in the buffer, gives the same answers but for the word of
//! its status. And what only the buffer can show: order and expiry by accept time, its quota, a parked entry.

use harness::{Answer, Client, Database, Server, eventually};
use serde_json::{Value, json};
use std::time::Duration;
use storage::model::{Clock, SystemClock};

const TASKS: &str = "[tasks.later]\nkind = \"pull\"\n[tasks.other]\nkind = \"pull\"\n\
    [sessions.review]\ninitial = \"a\"\nedges = { a = [\"complete\"] }\n";

/// A server that buffers all but the first run of an env, and lets nothing through.
fn holding(database: Database) -> Server {
    let server = Server::on(database).config(TASKS).set("buffer.drainer_enabled", "false");
    // A rate that not even one run keeps to.
    server.set("buffer.above_per_second", 0.1).set("buffer.hold_ms", 60_000).set("buffer.all_above_per_second", 0.1)
}

fn straight(database: Database) -> Server {
    Server::on(database).config(TASKS).set("buffer.mode", "off")
}

/// What two runs may differ in: who they are, when, and the one word.
fn same_for_all(answer: &Answer, names: &[(String, &str)]) -> String {
    let kept = [
        "content-type",
        "location",
        "idempotency-replayed",
        "retry-after",
        "x-tidegate-truncated",
        "etag",
        "x-tidegate-total-bytes",
    ];
    let headers = answer.headers.iter().filter(|(name, _)| kept.contains(&name.as_str()));
    let mut headers: Vec<String> = headers.map(|(name, value)| format!("{name}: {value}")).collect();
    // Their order says nothing.
    headers.sort_unstable();
    let mut body = match serde_json::from_slice::<Value>(&answer.body) {
        Ok(value) => value,
        Err(_) => Value::from(answer.text()),
    };
    blank(&mut body);
    // 202 says that it is buffered, 201 that it is not.
    let status = if answer.status == 202 && body["status"] == "waiting" { 201 } else { answer.status };
    let mut text = format!("{status} {headers:?} {body}");
    for (id, name) in names {
        text = text.replace(id, name);
    }
    ["buffered", "queued", "delayed"].into_iter().fold(text, |text, word| text.replace(&format!("-{word}"), "-waiting"))
}

fn blank(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("request_id");
            for (name, member) in members {
                let is_time = name.ends_with("_at") || name == "not_before" || name == "at";
                if is_time && member.is_string() {
                    *member = json!("a time");
                } else if name == "status" && ["buffered", "queued", "delayed"].iter().any(|word| *member == *word) {
                    *member = json!("waiting");
                } else if name == "next_cursor" && member.is_string() {
                    // Sealed, and of another store's run.
                    *member = json!("a cursor");
                } else {
                    blank(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

/// A script being played, and what came of it.
struct Play {
    client: Client,
    names: Vec<(String, &'static str)>,
    told: Vec<(String, String)>,
}

impl Play {
    fn note(&mut self, what: &str, answer: &Answer) {
        let told = same_for_all(answer, &self.names);
        self.told.push((what.to_owned(), told));
    }

    fn make(&mut self, name: &'static str, body: Value, status: u16) -> String {
        let answer = self.client.post("/runs", &body).is(status);
        let id = answer.field("id");
        self.names.push((id.clone(), name));
        self.note(&format!("make {name}"), &answer);
        id
    }

    fn get(&mut self, what: &str, path: &str) -> Answer {
        let answer = self.client.get(path);
        self.note(what, &answer);
        answer
    }

    fn post(&mut self, what: &str, path: &str, body: Value) -> Answer {
        let answer = self.client.post(path, &body);
        self.note(what, &answer);
        answer
    }

    fn patch(&mut self, what: &str, id: &str, version: Option<&str>, body: Value) -> Answer {
        let mut client = version.map_or(self.client.clone(), |version| self.client.with("If-Match", version));
        let answer = client.patch(&format!("/runs/{id}"), &body);
        self.note(what, &answer);
        answer
    }
}

/// Everything that can be asked of a run that waits; `made` is the status that new ones are answered with.
fn play(server: &Server, made: u16, word: &str) -> Vec<(String, String)> {
    let mut play = Play { client: server.client().in_env("acme/dev"), names: Vec::new(), told: Vec::new() };
    let mut stranger = server.client().in_env("other/dev");
    let session = play.client.post("/sessions", &json!({"type": "review"})).is(201).field("id");
    play.names.push((session.clone(), "SESSION"));
    let wish = json!({"task": "later", "payload": {"n": 12345678901234567890_u64, "t": ["\u{e9}\n", {}]}, "priority": 5,
        "tags": ["red", "a:b"], "metadata": {"k": 1}, "ttl_seconds": 3_600, "max_attempts": 7, "source": "daemon",
        "max_duration_seconds": 9, "concurrency_key": "c", "session_id": session, "idempotency_key": "key"});
    let run = play.make("RUN", wish.clone(), made);
    let path = format!("/runs/{run}");
    let read = play.get("get", &path).is(200);
    assert_eq!(read.field("status"), word, "{read:?}");
    let etag = read.header("etag").expect("an etag").to_owned();
    let mut knowing = play.client.with("If-None-Match", &etag);
    play.note("get what is known", &knowing.get(&path).is(304));

    // Idempotency.
    let again = play.post("the same again", "/runs", wish.clone());
    assert_eq!((again.status, again.field("id")), (made, run.clone()));
    let mut other = wish.clone();
    other["payload"] = json!(2);
    play.post("another with its key", "/runs", other).is_problem(422, "idempotency_mismatch");
    let mut by_header = play.client.with("Idempotency-Key", "in-the-header");
    let body = json!({"task": "other"});
    let first = by_header.post("/runs", &body).is(made);
    play.names.push((first.field("id"), "KEYED"));
    let answer = by_header.post("/runs", &body).is(made);
    play.note("the same again by the header", &answer);
    assert_eq!(answer.field("id"), first.field("id"));

    // Lists.
    let delayed = play.make("DELAYED", json!({"task": "later", "delay_seconds": 3_600, "tags": ["red"]}), made);
    for filter in [
        "",
        "&task=later",
        "&task=other",
        "&queue=later",
        "&queue=none",
        "&tag=red",
        "&tag=a:b",
        "&tag=re",
        "&source=daemon",
        "&source=backfill",
        "&accepted_after=2020-01-01T00:00:00Z",
        "&accepted_before=2020-01-01T00:00:00Z",
        "&accepted_after=2999-01-01T00:00:00Z",
        "&status=succeeded",
    ] {
        play.get(&format!("list{filter}"), &format!("/runs?limit=10{filter}")).is(200);
    }
    let waits = play.client.list("/runs?limit=1&status=buffered").len();
    let ready = play.client.list("/runs?limit=1&status=queued").len();
    let later = play.client.list("/runs?limit=1&status=delayed").len();
    let expected = if word == "buffered" { (3, 0, 0) } else { (0, 2, 1) };
    assert_eq!((waits, ready, later), expected, "page by page, by status");
    let page = play.get("a page", "/runs?limit=2").is(200).json();
    assert_eq!(page["has_more"], true);

    // Changes.
    play.patch("tags and metadata", &run, Some(&etag), json!({"tags": ["blue"], "metadata": {"k": [2]}})).is(200);
    play.patch("from what it was", &run, Some(&etag), json!({"tags": []})).is_problem(412, "precondition_failed");
    play.patch("priority", &run, None, json!({"priority": -3})).is(200);
    let in_a_quarter = (SystemClock.now() + Duration::from_secs(90 * 86_400)).to_string();
    play.patch("its time", &run, None, json!({"not_before": in_a_quarter})).is_problem(409, "conflict");
    play.patch("a time that is past", &run, None, json!({"not_before": "2020-01-01T00:00:00Z"})).is(400);
    play.patch("eleven tags", &run, None, json!({"tags": vec!["x"; 11]})).is(400);
    let moved = play.patch("the time of a delayed one", &delayed, None, json!({"not_before": in_a_quarter}));
    assert_eq!(moved.is(200).field("not_before"), in_a_quarter);
    play.get("get what was changed", &path).is(200);
    play.get("list by the new tag", "/runs?limit=10&tag=blue").is(200);

    // Output of nothing.
    for query in ["", "?stream=stderr", "?tail=10", "?stream=none"] {
        play.get(&format!("output{query}"), &format!("{path}/output{query}"));
    }

    // Replay.
    let replay = play.client.post(&format!("{path}/replay"), &json!({}));
    assert_eq!((replay.status, replay.field("replay_of")), (made, run.clone()), "{replay:?}");
    play.names.push((replay.field("id"), "REPLAY"));
    play.note("replay", &replay);

    // Nothing of it is there for another tenant.
    for (method, path, body) in [
        ("GET", path.clone(), None),
        ("GET", format!("{path}/output"), None),
        ("GET", format!("{path}/events"), None),
        ("PATCH", path.clone(), Some("{\"tags\":[]}")),
        ("POST", format!("{path}/cancel"), Some("{}")),
        ("POST", format!("{path}/replay"), Some("{}")),
    ] {
        let answer = stranger.send(method, &path, body).expect("an answer");
        answer.is_problem(404, "not_found");
        play.note(&format!("{method} by a stranger"), &answer);
    }
    assert!(stranger.list("/runs?limit=1").is_empty());

    // Followed to its end.
    let mut events = play.client.follow(&format!("{path}/events"), None).expect("a stream");
    let accepted = events.next().expect("its first event");
    assert_eq!((accepted.name.as_str(), accepted.json()["run"].as_str()), ("accepted", Some(run.as_str())));
    let cancelled = play.post("cancel", &format!("{path}/cancel"), json!({})).is(200);
    assert_eq!(cancelled.field("status"), "cancelled");
    let rest: Vec<_> = events.collect();
    let names: Vec<&str> = rest.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["finished", "end"]);
    assert_eq!(rest[0].json()["status"], "cancelled");
    let resumed = play.client.follow(&format!("{path}/events"), accepted.id.as_deref()).expect("a stream");
    assert_eq!(resumed.map(|event| event.name).collect::<Vec<_>>(), ["finished", "end"]);
    play.post("cancel again", &format!("{path}/cancel"), json!({})).is(200);
    play.get("get what was cancelled", &path).is(200);
    play.get("list what was cancelled", "/runs?limit=10&status=cancelled").is(200);
    play.patch("metadata of what was cancelled", &run, None, json!({"metadata": {"late": true}}));
    play.post("the same again after its end", "/runs", wish);
    play.post("cancel the delayed one", &format!("/runs/{delayed}/cancel"), json!({})).is(200);
    play.told
}

fn both_ways(database: Database) {
    let (mut direct, mut held) = (straight(database).start(), holding(database).start());
    let (directly, buffered) = (play(&direct, 201, "queued"), play(&held, 202, "buffered"));
    let mut different = Vec::new();
    for ((what, direct), (_, held)) in directly.iter().zip(&buffered) {
        if direct != held {
            different.push(format!("{what}:\n  direct   {direct}\n  buffered {held}"));
        }
    }
    println!("buffered and direct on {database:?}: {} answers, {} differ", directly.len(), different.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(directly.len(), buffered.len());
    direct.stop();
    held.stop();
    assert_eq!(held.number("SELECT COUNT(*) FROM ready"), 0, "nothing was let through");
}

#[test]
fn serve_a_buffered_run_answers_like_a_direct_one_on_sqlite() {
    both_ways(Database::Sqlite);
}

#[test]
fn serve_a_buffered_run_answers_like_a_direct_one_on_postgres() {
    both_ways(Database::Postgres);
}

fn order_and_expiry(database: Database) {
    let mut server = holding(database).set("workers.slots", 1).start();
    let mut client = server.client().in_env("acme/dev");
    let short = client.run(&json!({"task": "noop", "ttl_seconds": 1}));
    let old: Vec<String> = (0..5).map(|_| client.run(&json!({"task": "noop"}))).collect();
    let urgent = client.run(&json!({"task": "noop", "priority": 3_600}));
    // A time to live counts from the accept, in the buffer as elsewhere, whether or not anything is let through.
    eventually("the short-lived one expires", || client.read(&short)["status"] == "expired");
    let ended = client.read(&short);
    assert_eq!((ended["outcome"]["code"].as_str(), ended["attempt"].as_i64()), (Some("expired"), Some(0)));
    server.stop();
    // Newer runs go straight to where the old ones are not yet.
    server.change("TIDEGATE_BUFFER__MODE", "off");
    server.change("TIDEGATE_WORKERS__SLOTS", 0);
    server.again();
    let new: Vec<String> = (0..5).map(|_| client.run(&json!({"task": "noop"}))).collect();
    assert_eq!(client.read(&new[0])["status"], "queued");
    assert_eq!(client.read(&old[0])["status"], "buffered");
    server.stop();
    server.change("TIDEGATE_BUFFER__DRAINER_ENABLED", "true");
    server.change("TIDEGATE_WORKERS__SLOTS", 1);
    server.again();
    server.all_ended(&["acme/dev"]);
    server.stop();
    let rows = server.rows("SELECT id FROM run_records WHERE state = 'succeeded' ORDER BY started_at, epoch, id");
    let started: Vec<String> = rows.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect();
    let place = |id: &String| started.iter().position(|other| other == id).expect("it was started");
    let stamps = server.rows("SELECT id, started_at FROM run_records WHERE state = 'succeeded' ORDER BY started_at");
    println!(
        "order on {database:?}: urgent at {}, old ones at {:?}, new ones at {:?}",
        place(&urgent),
        old.iter().map(place).collect::<Vec<_>>(),
        new.iter().map(place).collect::<Vec<_>>()
    );
    let at = |id: &String| {
        let row = stamps.iter().find(|row| row[0].as_ref() == Some(id));
        row.and_then(|row| row[1].as_ref()?.parse::<i64>().ok()).expect("a stamp")
    };
    let last_old = old.iter().map(at).max().expect("some");
    let first_new = new.iter().map(at).min().expect("some");
    assert!(at(&urgent) <= old.iter().map(at).min().expect("some"), "priority counts in the buffer too");
    assert!(last_old <= first_new, "the older ones, though buffered, were started first: {stamps:?}");
}

#[test]
fn serve_accept_time_orders_and_expires_buffered_runs_on_sqlite() {
    order_and_expiry(Database::Sqlite);
}

#[test]
fn serve_accept_time_orders_and_expires_buffered_runs_on_postgres() {
    order_and_expiry(Database::Postgres);
}

/// Its time is taken from a run that waits for it.
fn at_once(database: Database) {
    let delayed = json!({"task": "noop", "delay_seconds": 86_400});
    let mut server = straight(database).start();
    let mut client = server.client();
    let run = client.run(&delayed);
    assert_eq!(client.read(&run)["status"], "delayed");
    let moved = client.patch(&format!("/runs/{run}"), &json!({"not_before": null})).is(200);
    assert!(moved.field("not_before") < (SystemClock.now() + Duration::from_secs(60)).to_string(), "{moved:?}");
    eventually("it is carried out", || client.read(&run)["status"] == "succeeded");
    client.patch(&format!("/runs/{run}"), &json!({"not_before": null})).is_problem(409, "conflict");
    server.stop();

    let mut server = holding(database).start();
    let mut client = server.client();
    let run = client.run(&delayed);
    client.patch(&format!("/runs/{run}"), &json!({"not_before": null})).is(200);
    assert_eq!(client.read(&run)["status"], "buffered", "the buffer keeps it as it keeps others");
    server.stop();
    server.change("TIDEGATE_BUFFER__DRAINER_ENABLED", "true");
    server.again();
    eventually("it is carried out", || client.read(&run)["status"] == "succeeded");
    server.stop();
}

#[test]
fn serve_a_delayed_run_starts_once_its_time_is_taken_from_it_on_sqlite() {
    at_once(Database::Sqlite);
}

#[test]
fn serve_a_delayed_run_starts_once_its_time_is_taken_from_it_on_postgres() {
    at_once(Database::Postgres);
}

fn quota_and_parked(database: Database) {
    let mut server = holding(database).set("limits.max_waiting", 6).start();
    let mut client = server.client().in_env("acme/dev");
    let mut ids: Vec<String> = (0..5).map(|_| client.run(&json!({"task": "noop"}))).collect();
    let keyed = json!({"task": "noop", "idempotency_key": "known"});
    ids.push(client.run(&keyed));
    client.post("/runs", &json!({"task": "noop"})).is_problem(429, "quota_exceeded");
    client
        .post("/runs/batch", &json!({"runs": [{"task": "noop"}, {"task": "noop"}]}))
        .is_problem(429, "quota_exceeded");
    client.post(&format!("/runs/{}/replay", ids[0]), &json!({})).is_problem(429, "quota_exceeded");
    let known = client.post("/runs", &keyed).is(202);
    assert_eq!((known.field("id"), known.header("idempotency-replayed")), (ids[5].clone(), Some("true")));
    let with_another = json!({"runs": [keyed, {"task": "noop"}]});
    client.post("/runs/batch", &with_another).is_problem(429, "quota_exceeded");
    assert_eq!(client.post("/runs/batch", &json!({"runs": [keyed]})).is(200).json()["data"][0]["run"]["id"], ids[5]);
    server.client().in_env("other/dev").run(&json!({"task": "noop"}));
    let depth = client.get("/buffer").is(200).json();
    let held = depth["entries"].as_u64().expect("a number");
    assert!(held >= 5 && depth["data"][0]["env"] == "acme/dev" && depth["data"][0]["parked"] == 0, "{depth}");
    client.post(&format!("/runs/{}/cancel", ids[5]), &json!({})).is(200);
    eventually("there is room for one again", || client.post("/runs", &json!({"task": "noop"})).status < 300);
    server.stop();
    // An entry that cannot be let through: its place in the ready table is taken by something else.
    let poison = ids[1].clone();
    server.execute(&format!(
        "INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts, max_attempts,
            max_duration_ms, since) VALUES ('{poison}', 'acme/dev', 'nobody/x', 'l', 'noop', 0, 9999999999999, NULL,
            0, 0, 1, 0, 0)"
    ));
    server.change("TIDEGATE_BUFFER__DRAINER_ENABLED", "true");
    server.again();
    eventually("the others are let through and carried out", || {
        let others = ids[2..5].iter().chain([&ids[0]]);
        others.clone().all(|id| client.read(id)["status"] == "succeeded")
    });
    let depth = client.get("/buffer").is(200).json();
    assert_eq!((&depth["entries"], &depth["data"][0]["parked"]), (&json!(1), &json!(1)), "{depth}");
    eventually("it is counted", || server.metric("tidegate_buffer_entries", &["state=\"parked\""]) == 1.0);
    assert_eq!(server.metric("tidegate_buffer_drained_total", &["outcome=\"parked\""]), 1.0);
    server.says("a buffered run cannot be let through; it is parked");
    // It can still be cancelled.
    server.execute(&format!("DELETE FROM ready WHERE run_id = '{poison}'"));
    assert_eq!(client.read(&poison)["status"], "buffered");
    assert_eq!(client.post(&format!("/runs/{poison}/cancel"), &json!({})).is(200).field("status"), "cancelled");
    server.all_ended(&["acme/dev", "other/dev"]);
    server.stop();
    harness::sql::audit_at_rest(&server.store);
}

#[test]
fn serve_the_buffer_has_its_quota_and_shows_what_is_parked_on_sqlite() {
    quota_and_parked(Database::Sqlite);
}

#[test]
fn serve_the_buffer_has_its_quota_and_shows_what_is_parked_on_postgres() {
    quota_and_parked(Database::Postgres);
}
