//! Traces: a run is of its sender's trace, wherever it is and whoever carries it, and what happens to it is one tree
//! there. Whoever is told of a run is told its trace; where nobody asked for traces, there are none.

use harness::{Answer, Client, Database, HOOKED, Hook, Otlp, Protocol, Recorded, Server, Supplier, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const OTHER_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "00f067aa0ba902b7";
const DROPPED: &str = "tidegate_trace_spans_dropped_total";

fn sent() -> String {
    format!("00-{TRACE}-{SENDER}-01")
}

fn in_trace(client: &Client) -> Client {
    client.with("traceparent", &sent())
}

/// Traces of which its senders decide are recorded, and no others.
fn recording(server: Server, otlp: &Otlp) -> Server {
    server.set("telemetry.otlp_endpoint", otlp.endpoint()).set("telemetry.sample_ratio", 0.0)
}

/// Buffers every run, and lets it through.
fn buffering(server: Server) -> Server {
    let server = server.set("buffer.above_per_second", 0.1).set("buffer.all_above_per_second", 0.1);
    server.set("buffer.hold_ms", 60_000)
}

fn ends(client: &mut Client, run: &str, status: &str) -> Value {
    let path = format!("/runs/{run}");
    eventually("the run ends", || client.get(&path).is(200).json()["finished_at"].is_string());
    let run = client.get(&path).json();
    assert_eq!(run["status"], status, "{run}");
    run
}

/// Its trace id and its span id.
fn parts(traceparent: &str) -> (&str, &str) {
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[3]), (4, "00", "01"), "{traceparent}");
    (parts[1], parts[2])
}

fn header(answer: &Answer) -> String {
    answer.header("traceparent").expect("the answer names the trace").to_owned()
}

/// The spans by their names, each with a parent that is one of them, or the sender.
#[track_caller]
fn tree(spans: &[Recorded], run: &str, names: &[&str]) -> BTreeMap<String, Recorded> {
    let told: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(told.iter().collect::<BTreeSet<_>>(), names.iter().collect::<BTreeSet<_>>(), "{told:?}");
    assert_eq!(told.len(), names.len(), "{told:?}");
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "two spans have one id");
    for span in spans {
        let parent = span.parent.as_deref().expect("it has a parent");
        assert!(ids.contains(parent) || (parent == SENDER && span.name == "POST /runs"), "{span:?} is an orphan");
        assert_eq!(span.resource["service.name"], "tidegate", "{span:?}");
        let of_run = span.name != "POST /runs" && span.name != "request";
        assert!(!of_run || span.fields["run.id"] == run, "{span:?}");
    }
    spans.iter().map(|span| (span.name.clone(), span.clone())).collect()
}

fn one_tree(database: Database) {
    let (otlp, hook) = (Otlp::start(), Hook::start());
    let mut server = buffering(recording(Server::on(database).config(&hook.task()), &otlp)).start();
    let mut client = server.client();
    let run = json!({"task": HOOKED, "payload": {"text": "canary-payload"}, "tags": ["canary-tag"]});
    let first = client.post("/runs", &run).is(202).field("id");
    let answer = in_trace(&client).post("/runs", &run).is(202);
    let id = answer.field("id");
    assert_eq!((answer.field("status"), answer.field("trace_id")), ("buffered".to_owned(), TRACE.to_owned()));
    assert_eq!(ends(&mut client, &id, "succeeded")["trace_id"], TRACE);
    let spans = otlp.wait(TRACE, 5);
    let of = tree(&spans, &id, &["POST /runs", "buffer", "queue", "attempt", "request"]);
    let (request, attempt) = (&of["request"], &of["attempt"]);
    let whole = &of["POST /runs"];
    assert_eq!(parts(&header(&answer)), (TRACE, whole.id.as_str()));
    for part in ["buffer", "queue", "attempt"] {
        assert_eq!(of[part].parent.as_ref(), Some(&whole.id), "{part}");
    }
    assert_eq!(request.parent.as_ref(), Some(&attempt.id));
    assert_eq!(hook.traceparents(&id), [Some(request.traceparent())]);
    let kinds = ["POST /runs", "buffer", "request"].map(|name| of[name].kind);
    assert_eq!(kinds, [2, 1, 3], "of a server, of nobody else, of a client");
    let times = [
        whole.begin,
        of["buffer"].begin,
        of["buffer"].end,
        of["queue"].begin,
        of["queue"].end,
        attempt.begin,
        request.begin,
        request.end,
        attempt.end,
    ];
    assert!(times.is_sorted(), "{times:?}: {spans:#?}");
    assert_eq!(
        (&whole.fields["http.route"], &whole.fields["http.response.status_code"]),
        (&json!("/runs"), &json!(202))
    );
    assert!(
        whole.fields["request.id"].as_str().is_some_and(|id| Some(id) == answer.header("x-request-id")),
        "{whole:?}"
    );
    assert_eq!((&attempt.fields["attempt"], &attempt.failed), (&json!(1), &None));
    // What nobody asked to be recorded is not.
    assert!(ends(&mut client, &first, "succeeded").get("trace_id").is_none());
    assert_eq!(hook.traceparents(&first), [None]);
    assert!(otlp.all().iter().all(|span| span.trace == TRACE), "{:?}", otlp.all());
    assert!(!format!("{:?}", otlp.all()).contains("canary"), "what a run holds is nobody else's: {:?}", otlp.all());
    assert_eq!(server.metric(DROPPED, &[]), 0.0);
    server.stop();
}

#[test]
fn one_run_through_gateway_buffer_drainer_and_worker_is_one_tree_on_sqlite() {
    one_tree(Database::Sqlite);
}

#[test]
fn one_run_through_gateway_buffer_drainer_and_worker_is_one_tree_on_postgres() {
    one_tree(Database::Postgres);
}

fn goes_on_after_a_kill(database: Database) {
    let otlp = Otlp::start();
    let script = "if [ $TIDEGATE_ATTEMPT = 1 ]; then exec sleep 600; fi; printf %s $TRACEPARENT";
    let task = format!("[tasks.twice]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\n");
    let mut server = recording(Server::on(database).config(&task), &otlp).start();
    let mut client = server.client();
    let id = in_trace(&client).post("/runs", &json!({"task": "twice"})).is(201).field("id");
    let mut elsewhere = client.with("traceparent", &sent().replace(TRACE, OTHER_TRACE));
    let last = elsewhere.post("/runs", &json!({"task": "twice", "max_attempts": 1})).is(201).field("id");
    for run in [&id, &last] {
        eventually("it is under way", || client.get(&format!("/runs/{run}")).json()["status"] == "running");
    }
    let whole = otlp.wait(TRACE, 1)[0].clone();
    otlp.wait(OTHER_TRACE, 1);
    server.kill9();
    server.again();
    ends(&mut client, &id, "succeeded");
    ends(&mut client, &last, "failed");
    let of_last = otlp.wait(OTHER_TRACE, 2);
    let told: Vec<(&str, Option<&str>)> =
        of_last.iter().map(|span| (span.name.as_str(), span.failed.as_deref())).collect();
    assert_eq!(told, [("POST /runs", None), ("attempt", Some("lost"))]);
    // The first attempt went the short way: it waited in no queue.
    let of_run = |span: &Recorded| span.name != "POST /runs";
    let spans = || -> Vec<Recorded> { otlp.of_trace(TRACE).into_iter().filter(of_run).collect() };
    eventually("the spans of both attempts have come", || {
        spans().iter().filter(|span| span.name == "attempt").count() == 2
            && spans().iter().any(|span| span.name == "queue")
    });
    let spans = spans();
    assert!(spans.iter().all(|span| span.parent.as_ref() == Some(&whole.id) && span.fields["run.id"] == id.as_str()));
    let attempts: Vec<&Recorded> = spans.iter().filter(|span| span.name == "attempt").collect();
    let failures: Vec<Option<&str>> = attempts.iter().map(|attempt| attempt.failed.as_deref()).collect();
    assert_eq!(failures, [Some("lost"), None], "{spans:#?}");
    let passed_on = client.get(&format!("/runs/{id}/output?stream=stdout")).is(200).text();
    assert_eq!(passed_on, attempts[1].traceparent());
    server.stop();
}

#[test]
fn a_run_goes_on_in_its_tree_after_a_kill_on_sqlite() {
    goes_on_after_a_kill(Database::Sqlite);
}

#[test]
fn a_run_goes_on_in_its_tree_after_a_kill_on_postgres() {
    goes_on_after_a_kill(Database::Postgres);
}

#[test]
fn a_pull_worker_is_told_the_trace_and_its_attempt_is_in_it() {
    let otlp = Otlp::start();
    let server = Server::on(Database::Sqlite).config("[tasks.later]\nkind = \"pull\"\n");
    let mut server = recording(server, &otlp).start();
    let mut client = server.client();
    let runs = json!({"runs": [{"task": "later"}, {"task": "later"}]});
    let answer = in_trace(&client).post("/runs/batch", &runs).is(200);
    let whole = header(&answer);
    let ask = json!({"tasks": ["later"], "worker": "w", "max_items": 2});
    let leases = client.post("/workers/lease", &ask).is(200).json()["data"].as_array().cloned().expect("leases");
    for (lease, path) in leases.iter().zip(["/workers/complete", "/workers/fail"]) {
        let mut report = json!({"run_id": lease["run_id"], "lease_token": lease["lease_token"]});
        if path == "/workers/fail" {
            report["code"] = json!("broken");
            report["retry"] = json!(false);
        }
        client.post(path, &report).is(200);
    }
    let spans = otlp.wait(TRACE, 5);
    for (lease, failed) in leases.iter().zip([None, Some("broken")]) {
        let of_run = |name: &str| {
            let mut found = spans.iter().filter(|span| span.name == name && span.fields["run.id"] == lease["run_id"]);
            found.next().unwrap_or_else(|| panic!("{name} of {lease}: {spans:#?}"))
        };
        let (queue, attempt) = (of_run("queue"), of_run("attempt"));
        assert_eq!(
            (queue.parent.as_deref(), attempt.parent.as_deref()),
            (Some(parts(&whole).1), Some(parts(&whole).1))
        );
        assert_eq!((attempt.failed.as_deref(), lease["traceparent"].as_str()), (failed, Some(&*attempt.traceparent())));
        assert!(queue.end <= attempt.begin, "{queue:?} {attempt:?}");
    }
    server.stop();
}

#[test]
fn a_batch_is_a_trace_of_its_own_with_a_link_to_those_of_its_runs() {
    let otlp = Otlp::start();
    let supplier = Supplier::new(Protocol::OpenAi, harness::Account::open());
    let provider = supplier.account.addr();
    let (wire, said) = overheard(provider);
    let config = supplier.with_task("llm").replace(&provider.to_string(), &wire.to_string());
    let mut server = recording(Server::on(Database::Sqlite).config(&config), &otlp).start();
    let mut client = server.client();
    let run = |number| json!({"task": "llm", "payload": supplier.payload(number)});
    let alone = in_trace(&client).post("/runs", &run(0)).is(201);
    let others = json!({"runs": (1..4).map(run).collect::<Vec<_>>()});
    let together = in_trace(&client).post("/runs/batch", &others).is(200);
    let untraced = client.post("/runs", &run(4)).is(201).field("id");
    let job = client.post("/jobs", &json!({"pool": "llm"})).is(201).field("id");
    eventually("the job is over", || client.get(&format!("/jobs/{job}")).json()["finished_at"].is_string());
    let is_create = |span: &Recorded| span.name == "batch create";
    eventually("the create is told", || otlp.all().iter().any(is_create));
    let create = otlp.all().into_iter().find(is_create).expect("it is there");
    assert_eq!((create.parent.as_ref(), create.kind, create.failed.as_ref()), (None, 3, None));
    assert_ne!(create.trace, TRACE);
    // The provider is told it by the create, and by no other call.
    let said = String::from_utf8_lossy(&said.lock().expect("nobody panicked")).to_ascii_lowercase();
    let told: Vec<&str> = said.match_indices("\r\ntraceparent: ").map(|(at, _)| &said[at + 15..at + 67]).collect();
    assert_eq!(told, [format!("00-{}-{}", create.trace, create.id)]);
    let head = said.split("post /v1/batches ").nth(1).and_then(|rest| rest.split("\r\n\r\n").next());
    assert!(head.is_some_and(|head| head.contains(told[0])), "{head:?}");
    let linked: Vec<(String, String)> =
        [header(&alone), header(&together)].iter().map(|own| (TRACE.to_owned(), parts(own).1.to_owned())).collect();
    assert_eq!(create.links, linked);
    // Two requests, and four attempts of theirs.
    let spans = otlp.wait(TRACE, 6);
    let attempts: Vec<&Recorded> = spans.iter().filter(|span| span.name == "attempt").collect();
    assert_eq!(attempts.len(), 4, "{spans:#?}");
    for attempt in attempts {
        assert_eq!(attempt.links, [(create.trace.clone(), create.id.clone())]);
        assert!(attempt.fields["run.id"] != untraced.as_str() && attempt.failed.is_none(), "{attempt:?}");
    }
    server.stop();
}

/// A way to a server on which everything that is sent to it is kept. Its threads end with this process.
fn overheard(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (addr, said) = (listener.local_addr().expect("its address"), Arc::<Mutex<Vec<u8>>>::default());
    let kept = said.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let Ok(mut upstream) = TcpStream::connect(server) else { continue };
            let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), upstream.try_clone()) else { continue };
            let kept = kept.clone();
            std::thread::spawn(move || {
                let mut piece = [0; 8_192];
                while let Ok(got @ 1..) = client.read(&mut piece) {
                    kept.lock().expect("nobody panicked").extend_from_slice(&piece[..got]);
                    if upstream.write_all(&piece[..got]).is_err() {
                        break;
                    }
                }
                let _ = upstream.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
        }
    });
    (addr, said)
}

#[test]
fn a_receiver_that_is_away_changes_nothing_but_a_count() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("its address").port();
    let hook = Hook::start();
    let server = Server::on(Database::Sqlite).config(&hook.task());
    let mut server = server.set("telemetry.otlp_endpoint", format!("http://127.0.0.1:{port}")).start();
    let mut client = server.client().within(Duration::from_secs(5));
    let ids: Vec<String> =
        (0..20).map(|_| client.post("/runs", &json!({"task": HOOKED, "payload": {}})).is(201).field("id")).collect();
    for id in &ids {
        let run = ends(&mut client, id, "succeeded");
        assert_eq!(run["trace_id"].as_str().map(str::len), Some(32), "{run}");
    }
    // A request, an attempt and what it asks.
    eventually("what is not sent is counted", || server.metric(DROPPED, &[]) >= 60.0);
    assert_eq!(hook.deliveries().len(), 20);
    let ended = server.stop();
    let told = ended.stderr.lines().filter(|line| line.contains("spans are dropped")).count();
    assert_eq!(told, 1, "{}", ended.stderr);
}

#[test]
fn what_nobody_asked_to_be_traced_is_not_and_what_nobody_records_is_passed_on_as_it_came() {
    let (otlp, hook) = (Otlp::start(), Hook::start());
    for records in [false, true] {
        let server = Server::on(Database::Sqlite).config(&hook.task());
        let mut server = if records { recording(server, &otlp) } else { server }.start();
        let mut client = server.client();
        let run = json!({"task": HOOKED, "payload": {}});
        let unsampled = format!("00-{TRACE}-{SENDER}-00");
        let mut given = vec![None, Some("00-zz-1-xx".to_owned()), Some(format!("00-{}-{SENDER}-01", "0".repeat(32)))];
        given.extend([Some(format!("ff-{TRACE}-{SENDER}-01")), Some(unsampled.clone())]);
        let mut expected = vec![None, None, None, None, Some(unsampled)];
        if !records {
            given.extend([Some(sent()), Some(format!("cc-{TRACE}-{SENDER}-03-more"))]);
            expected.extend([Some(sent()), Some(format!("00-{TRACE}-{SENDER}-03"))]);
        }
        for (given, expected) in given.into_iter().zip(expected) {
            let mut sender = given.as_ref().map_or(client.clone(), |given| client.with("traceparent", given));
            let answer = sender.post("/runs", &run).is(201);
            let id = answer.field("id");
            assert_eq!(answer.header("traceparent").map(str::to_owned), expected, "{given:?}");
            let read = ends(&mut client, &id, "succeeded");
            assert_eq!(read["trace_id"].as_str(), expected.as_ref().map(|_| TRACE), "{given:?}: {read}");
            assert_eq!(hook.traceparents(&id), std::slice::from_ref(&expected), "{given:?}");
            let stored = server.rows(&format!("SELECT traceparent FROM run_records WHERE id = '{id}'"));
            assert_eq!(stored, [[expected]], "{given:?}");
        }
        // Two headers contradict each other.
        let mut twice = in_trace(&in_trace(&client));
        assert_eq!(twice.post("/runs", &run).is(201).header("traceparent"), None);
        server.stop();
    }
    assert_eq!(otlp.all(), []);
}
