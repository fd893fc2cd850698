//! Several servers that share nothing but PostgreSQL: what each is for, how they hear of each other, how one is let go
//! of, and what none of them works through.

use crate::bad_calls::libfaketime;
use harness::{Client, Database, OwnPostgres, Server, eventually};
use serde_json::{Value, json};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

fn beside(first: &Server, role: &str) -> Server {
    Server::on(Database::Postgres).with_store(&first.store).arg("--role").arg(role)
}

fn api() -> Server {
    Server::on(Database::Postgres).arg("--role").arg("api").start()
}

fn succeeds(client: &mut Client, run: &str) {
    eventually("the run succeeds", || client.read(run)["status"] == "succeeded");
}

/// Milliseconds from accepted to started, by the run's own stamps.
fn wait_of(client: &mut Client, run: &str) -> i64 {
    succeeds(client, run);
    let row = client.read(run);
    let at = |name: &str| {
        let text = row[name].as_str().unwrap_or_else(|| panic!("{name} of {row}"));
        let (_, clock) = text.split_once('T').expect("RFC 3339");
        let mut parts = clock.trim_end_matches('Z').split(':').map(|part| part.parse::<f64>().expect("a number"));
        let mut next = || parts.next().expect("hours, minutes, seconds");
        ((next() * 60.0 + next()) * 60_000.0 + next() * 1_000.0).round() as i64
    };
    (at("started_at") - at("accepted_at")).rem_euclid(86_400_000)
}

fn actors(client: &mut Client) -> Vec<String> {
    let rows = client.list("/actors");
    rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn serve_a_node_has_the_actors_of_its_roles_only() {
    let first = api();
    assert_eq!(actors(&mut first.client()), ["sweeper"], "it sweeps after itself");
    for (role, expected) in [
        ("api,poller", vec!["job_drive", "batch_poller", "sweeper"]),
        ("api,worker", vec!["sweeper", "drainer", "worker-0", "worker-1"]),
    ] {
        let node = beside(&first, role).set("workers.slots", 2).start();
        assert_eq!(actors(&mut node.client()), expected, "{role}");
    }
}

/// Fault F23: the scan is twice a second, and a run that another node was told of does not wait for it.
#[test]
fn serve_a_run_taken_in_on_one_node_is_started_by_another_at_once() {
    let first = api();
    let worker = beside(&first, "worker").start_without_api();
    let mut client = first.client();
    let mut waits: Vec<i64> = (0..20)
        .map(|_| {
            let run = client.run(&json!({"task": "noop"}));
            wait_of(&mut client, &run)
        })
        .collect();
    waits.sort_unstable();
    println!("waits over two nodes in ms: {waits:?}");
    assert!(waits[waits.len() / 2] <= 100, "by scans alone half of them would wait longer than 250 ms: {waits:?}");
    drop(worker);
}

/// Fault F23: a doorbell that is cut costs a moment, and never a run.
#[test]
fn serve_whoever_does_not_hear_the_doorbell_looks_for_itself() {
    let rounds = if std::env::var_os("TIDEGATE_SOAK").is_some() { 200 } else { 25 };
    let first = api();
    let worker = beside(&first, "worker").start_without_api();
    let cut = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'tidegate doorbell' AND datname = current_database()";
    let mut client = first.client();
    let (mut waits, mut cuts) = (Vec::new(), 0);
    for _ in 0..rounds {
        cuts += first.number(cut);
        let run = client.run(&json!({"task": "noop"}));
        waits.push(wait_of(&mut client, &run));
    }
    waits.sort_unstable();
    let p99 = waits[(waits.len() * 99).div_ceil(100) - 1];
    println!("{cuts} doorbells cut; waits in ms: p50 {} p99 {p99}", waits[waits.len() / 2]);
    assert!(cuts >= rounds, "each round cut one at least");
    assert!(p99 <= 1_200, "{waits:?}");
    drop(worker);
}

/// Fault F23: who dies between a commit and the ring has told nobody of it.
#[test]
fn serve_a_run_that_nobody_was_told_of_is_found() {
    let first = api();
    let worker = beside(&first, "worker").start_without_api();
    let mut client = first.client();
    // By the last of them the worker has looked for all that was there before it listened.
    for _ in 0..3 {
        let run = client.run(&json!({"task": "noop"}));
        succeeds(&mut client, &run);
    }
    let mut dies = beside(&first, "api").env("TIDEGATE_FAILPOINT", "accept.stored").start();
    let answer = dies.client().send("POST", "/runs", Some(&json!({"task": "noop"}).to_string()));
    assert!(answer.is_err(), "it died before it could answer: {answer:?}");
    assert!(dies.ends().was_killed());
    assert_eq!(first.number("SELECT COUNT(*) FROM run_records"), 4, "the run is stored");
    eventually("it is found and carried out", || {
        first.number("SELECT COUNT(*) FROM run_records WHERE state = 'succeeded'") == 4
    });
    drop(worker);
}

#[test]
fn serve_a_run_is_cancelled_on_the_node_that_carries_it_by_a_call_to_another() {
    let config = "[tasks.nap]\nkind = \"exec\"\nprogram = \"/bin/sleep\"\nargs = [\"600\"]\n";
    let first = Server::on(Database::Postgres).config(config).arg("--role").arg("api").start();
    let worker = beside(&first, "worker").config(config).set("supervisor.sweep_seconds", "30").start_without_api();
    let mut client = first.client();
    let run = client.run(&json!({"task": "nap"}));
    eventually("it is carried out", || client.read(&run)["status"] == "running");
    client.post(&format!("/runs/{run}/cancel"), &json!({})).is(202);
    eventually("it is cancelled", || client.read(&run)["status"] == "cancelled");
    drop(worker);
}

/// Whoever follows an env hears of all that is settled in it, whichever node did it, and of nothing else.
#[test]
fn serve_a_stream_of_an_env_tells_what_other_nodes_settle() {
    let first = api();
    let worker = beside(&first, "worker").start_without_api();
    let (mut client, mut other) = (first.client().in_env("one/dev"), first.client().in_env("two/dev"));
    let events = client.follow("/events", None).expect("a stream");
    let (tell, told) = std::sync::mpsc::channel();
    let mut ids = events.filter(|event| event.name != "resync").map(|event| event.json()["id"].clone());
    std::thread::spawn(move || ids.try_for_each(|id| tell.send(id)));
    // Until the worker knows that somebody follows.
    eventually("the first is told", || {
        let run = client.run(&json!({"task": "noop"}));
        succeeds(&mut client, &run);
        told.recv_timeout(std::time::Duration::from_millis(100)).is_ok()
    });
    let runs: Vec<String> = (0..50)
        .map(|_| {
            other.run(&json!({"task": "noop"}));
            client.run(&json!({"task": "noop"}))
        })
        .collect();
    let mut missing: std::collections::HashSet<&str> = runs.iter().map(String::as_str).collect();
    while !missing.is_empty() {
        let heard = told.recv_timeout(std::time::Duration::from_secs(30));
        let id = heard.unwrap_or_else(|_| panic!("{} of {} were not told", missing.len(), runs.len()));
        let id = id.as_str().expect("an id");
        let is_own = missing.remove(id) || client.read(id)["env"] == "one/dev";
        assert!(is_own, "{id} is of another env");
    }
    drop(worker);
}

fn command(server: &Server, door: &Server, args: &[&str]) -> (Option<i32>, String, String) {
    let addr = door.door().addr().expect("it listens");
    let done = server.command(args).env("TIDEGATE_SERVER", format!("http://{addr}")).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// A node that drains ends what it has, takes nothing on, is not ready, and lets others have the rest.
#[test]
fn serve_a_node_that_is_asked_to_drain_takes_nothing_on_and_ends_what_it_has() {
    let config = "[tasks.nap]\nkind = \"exec\"\nprogram = \"/bin/sleep\"\nargs = [\"{payload.seconds}\"]\n";
    let first = Server::on(Database::Postgres).config(config).arg("--role").arg("api").start();
    let mut worker = beside(&first, "worker").config(config).start_without_api();
    let mut client = first.client();
    let begun = client.run(&json!({"task": "nap", "payload": {"seconds": "3"}}));
    eventually("it is carried out", || client.read(&begun)["status"] == "running");
    let (code, nodes, said) = command(&first, &first, &["nodes", "list", "-o", "jsonl"]);
    assert_eq!(code, Some(0), "{said}");
    let pid = u64::from(worker.pid());
    let of_worker = |node: &Value| node["pid"] == pid;
    let nodes: Vec<Value> = nodes.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let id = nodes.iter().find(|node| of_worker(node)).expect("it is listed")["id"].as_str().expect("an id").to_owned();
    assert_eq!(worker.ops("/readyz").status, 200);
    for _ in 0..2 {
        let (code, out, said) = command(&first, &first, &["nodes", "drain", &id, "-o", "json"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(out.contains("\"draining\""), "{out}");
    }
    eventually("it is not ready any more", || worker.ops("/readyz").status == 503);
    assert_eq!(worker.ops("/livez").status, 200);
    let left = client.run(&json!({"task": "noop"}));
    succeeds(&mut client, &begun);
    assert_eq!(client.read(&left)["status"], "queued", "a node that drains takes nothing on");
    let other = beside(&first, "worker").config(config).start_without_api();
    succeeds(&mut client, &left);
    worker.stop();
    let (code, _, said) = command(&first, &first, &["nodes", "drain", &id]);
    assert_eq!(code, Some(3), "it is gone: {said}");
    drop(other);
}

/// Of several nodes one sweeps each kind; when it is killed, another does.
#[test]
fn serve_what_is_swept_for_all_is_swept_by_one_and_then_by_another() {
    let first = api();
    let mut sweeper = beside(&first, "sweeper").start_without_api();
    let second = beside(&first, "sweeper").start_without_api();
    let of = |server: &Server| {
        let node = format!("SELECT id FROM nodes WHERE pid = {} AND state = 'live'", server.pid());
        first.rows(&node).pop().and_then(|mut row| row.pop().flatten()).expect("it has registered")
    };
    let holds = |id: &str| first.number(&format!("SELECT COUNT(*) FROM roles WHERE holder = '{id}'"));
    let (killed, heir) = (of(&sweeper), of(&second));
    eventually("every kind has its node", || first.number("SELECT COUNT(*) FROM roles") == 6);
    eventually("nobody else sweeps", || holds(&killed) + holds(&heir) == 6);
    sweeper.kill9();
    eventually("the other sweeps all", || holds(&heir) == 6);
    let gone = format!("SELECT COUNT(*) FROM nodes WHERE id = '{killed}' AND state = 'gone'");
    eventually("the dead one is declared gone", || first.number(&gone) == 1);
}

/// Who is gone is judged by the database's time (invariant 3, F31): the clock of one node's machine ends no other.
#[test]
fn serve_a_node_whose_clock_is_an_hour_off_declares_the_dead_gone_and_nobody_else() {
    for off in ["+1h", "-1h"] {
        let first = api();
        let mut dead = beside(&first, "api").start();
        let off_by_an_hour = beside(&first, "sweeper")
            .env("LD_PRELOAD", libfaketime().display())
            .env("FAKETIME", off)
            .env("DONT_FAKE_MONOTONIC", "1")
            .start_without_api();
        let state = |pid: u32| {
            let rows = first.rows(&format!("SELECT state FROM nodes WHERE pid = {pid}"));
            rows.into_iter().flatten().flatten().next().expect("it has registered")
        };
        let killed = dead.pid();
        dead.kill9();
        eventually("the dead one is declared gone", || state(killed) == "gone");
        for living in [first.pid(), off_by_an_hour.pid()] {
            assert_eq!(state(living), "live", "with a clock that is off by {off}");
        }
    }
}

#[test]
fn db_says_what_a_store_has_and_migrates_while_nobody_serves() {
    let server = Server::on(Database::Sqlite);
    let run = |args: &[&str]| {
        let done = server.command(args).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let (code, _, said) = run(&["db", "status"]);
    assert_eq!(code, Some(74), "there is no store yet, and asking makes none: {said}");
    let (code, migrated, said) = run(&["db", "migrate"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(migrated.lines().count() >= 6 && migrated.lines().all(|line| line.ends_with("\tapplied")), "{migrated}");
    assert_eq!(run(&["db", "status"]), (Some(0), migrated, String::new()));
    assert_eq!(server.rows("SELECT COUNT(*) FROM nodes"), [[Some("0".to_owned())]], "no node has come of it");
    // The URL may stand in a file, where a password is not seen by everybody.
    let file = server.dir.path().join("url");
    std::fs::write(&file, format!("{}\n", server.store)).expect("it is written");
    let done =
        server.command(&["db", "status"]).env_remove("TIDEGATE_STORE").env("TIDEGATE_STORE_FILE", &file).output();
    assert!(done.expect("it runs").status.success());
}

/// PgBouncer between a node and its database, lending connections by the transaction.
struct Pooler {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Pooler {
    fn before(postgres: &OwnPostgres, setting: &str) -> Pooler {
        let dir = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (port, behind) = (free.expect("a port").port(), postgres.addr());
        let settings = format!(
            "[databases]\npostgres = host={} port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n{setting}\n",
            behind.ip(),
            behind.port()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("it is written");
        // It does not run as root, nor does it read what is root's.
        let id = Command::new("id").arg("-u").output().expect("it runs");
        let mut words: Vec<&str> = Vec::new();
        if id.stdout.starts_with(b"0\n") {
            let owned = Command::new("chown").arg("-R").arg("postgres").arg(dir.path()).status();
            assert!(owned.is_ok_and(|status| status.success()));
            words.extend(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        let mut command = Command::new("setpriv");
        command.args(words).args(["--pdeathsig=KILL", "--", "/usr/sbin/pgbouncer"]).arg(&file).current_dir("/");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let pooler = Pooler { child: child.expect("it starts"), port, _dir: dir };
        eventually("the pooler listens (package pgbouncer)", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fault F22. With the defaults it refuses our sessions' settings; where it is told to pass over them, two sessions
/// that are open at once turn out to be one.
#[test]
fn serve_a_pooler_that_lends_connections_by_the_transaction_is_refused() {
    let postgres = OwnPostgres::start();
    for setting in ["", "ignore_startup_parameters = options"] {
        let pooler = Pooler::before(&postgres, setting);
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", pooler.port);
        let mut server = Server::on(Database::Sqlite).with_store(&url);
        server.launch();
        let ended = server.ends();
        assert_eq!(ended.code, Some(2), "{setting}: {ended:#?}");
        assert!(ended.stderr.contains("through a pooler"), "{setting}: {}", ended.stderr);
        assert!(ended.stderr.contains("hint: name the database itself"), "{setting}: {}", ended.stderr);
        let told = server.command(&["doctor"]).output().expect("it is started");
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        let line = said.lines().find(|line| line.starts_with("fail\tstore\t")).unwrap_or_default();
        assert!(line.contains("through a pooler") && line.contains("name the database itself"), "{setting}: {said}");
    }
    let tables = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'";
    let rows = harness::sql::rows(&postgres.url(), tables);
    assert_eq!(rows, [[Some("0".to_owned())]], "nothing was written");
}

/// The gauges of one node that sweeps for all equal a count, and go back to 0 (invariant 34).
#[test]
fn serve_what_waits_in_each_queue_is_told_to_prometheus_and_to_autoscalers() {
    let later = "[tasks.later]\nkind = \"pull\"\n[buffer]\nabove_per_second = 2\ndrainer_enabled = false\n";
    let mut server =
        Server::on(Database::Sqlite).config(later).set("supervisor.sweep_seconds", 0.2).set("workers.slots", 7).start();
    let mut client = server.client();
    let run = |queue: &str| json!({"task": "later", "queue": queue});
    let first = client.run(&run("slow"));
    let runs = json!({"runs": vec![run("slow"); 3]});
    client.post("/runs/batch", &runs).is(200);
    client.run(&json!({"task": "later", "queue": "slow", "delay_seconds": 3_600}));
    let waits = |client: &mut Client, path: &str| client.get(path).is(200).json();
    let (ready, buffered) = (
        server.number("SELECT COUNT(*) FROM ready WHERE due_at = 0"),
        server.number("SELECT COUNT(*) FROM buffer WHERE due_at = 0"),
    );
    assert!(ready > 0 && buffered > 0 && ready + buffered == 4, "{ready} and {buffered}");
    let depth = |server: &Server| server.metric("tidegate_queue_depth", &["queue=\"slow\""]);
    eventually("its depth is told", || depth(&server) == ready as f64);
    assert!(server.metric("tidegate_queue_oldest_age_seconds", &["queue=\"slow\""]) > 0.0);
    assert_eq!(waits(&mut client, "/autoscale?queue=slow")["target"], 7);
    assert_eq!(waits(&mut client, "/autoscale?queue=slow")["value"], 4);
    assert_eq!(waits(&mut client, "/autoscale?queue=fast")["value"], 0);
    let ready: Vec<_> =
        server.rows("SELECT run_id FROM ready WHERE due_at = 0").into_iter().flatten().flatten().collect();
    assert!(ready.contains(&first));
    for run in ready {
        client.post(&format!("/runs/{run}/cancel"), &Value::Null).is(200);
    }
    eventually("nothing waits", || depth(&server) == 0.0);
    server.stop();
}
