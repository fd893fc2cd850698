//! SIGKILL of the server wherever it works on a session: the row stays the fold of its events, each happens once, and
//! nothing of a closed session is left.

use super::{REVIEW, go, open, server};
use crate::survived::{ask, dies, done};
use harness::{Database, Server, eventually};
use serde_json::{Value, json};
use storage::failpoint::{Failpoint, PassedBy};

/// Questions whose answer must be no row at all.
const NEVER: &[&str] = &[
    "SELECT id FROM sessions s WHERE NOT EXISTS (SELECT 1 FROM session_events e WHERE e.session_id = s.id
        AND e.seq = s.seq AND e.round = s.round AND e.phase = s.phase AND (e.event = 'closed') = (s.state = 'closed'))",
    "SELECT id FROM sessions s WHERE seq <> (SELECT COUNT(*) FROM session_events e WHERE e.session_id = s.id)",
    "SELECT id FROM sessions s WHERE resumes <>
        (SELECT COUNT(*) FROM session_events e WHERE e.session_id = s.id AND e.event = 'resumed')",
    "SELECT r.id FROM run_records r JOIN sessions s ON s.id = r.session_id WHERE s.state = 'closed'
        AND r.state = 'open' AND r.id <> s.driver",
];

/// A session whose driver ends without completing it: it goes on with another one, which ends so too.
fn killed_at(database: Database, point: Failpoint, nth: usize) {
    let mut server = server(database);
    let go = server.dir.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let task = format!(
        "[tasks.drive]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", '{script}']\nmax_attempts = 99\n\
        retry_base_seconds = 0.05\nretry_cap_seconds = 0.05\n"
    );
    let review = REVIEW.replacen("[sessions.map]", "resumes = 1\n[sessions.map]", 1);
    server = server.config(&format!("{review}{task}")).set("nodes.lease_seconds", 8.0);
    server.change("TIDEGATE_FAILPOINT", format!("{}:{nth}", point.name()));
    server.again();
    let mut died = false;
    let (mut driver, mut id, mut child) = (String::new(), String::new(), String::new());
    let text = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
    done(&mut server, &mut died, |client| {
        let keyed = json!({"task": "drive", "idempotency_key": "driver"});
        driver = ask(client, "POST", "/runs", Some(&keyed)).map(|run| text(&run)).unwrap_or_default();
        !driver.is_empty()
    });
    done(&mut server, &mut died, |client| {
        let wish = json!({"type": "review", "driver_run_id": driver});
        id = ask(client, "POST", "/sessions", Some(&wish)).map(|session| text(&session)).unwrap_or_default();
        !id.is_empty()
    });
    done(&mut server, &mut died, |client| {
        let keyed = json!({"task": "later", "session_id": id, "idempotency_key": "child"});
        child = ask(client, "POST", "/runs", Some(&keyed)).map(|run| text(&run)).unwrap_or_default();
        !child.is_empty()
    });
    let path = format!("/sessions/{id}");
    done(&mut server, &mut died, |client| {
        ask(client, "POST", &format!("{path}/transition"), Some(&json!({"phase": "reviews"}))).is_some()
    });
    std::fs::write(&go, "").expect("the programs may end");
    done(&mut server, &mut died, |client| {
        ask(client, "GET", &path, None).is_some_and(|session| session["outcome"] == "exhausted")
    });
    done(&mut server, &mut died, |client| {
        ask(client, "GET", &format!("/runs/{child}"), None).is_some_and(|run| run["status"] == "cancelled")
    });
    dies(&mut server, &mut died);
    let mut client = server.client();
    let names = super::events(&mut client, &id);
    assert_eq!(names, ["opened", "moved", "resumed", "closed"], "killed at {}", point.name());
    let first = client.read(&driver);
    assert_eq!((&first["status"], &first["outcome"]["code"]), (&json!("succeeded"), &json!("incomplete")), "{first}");
    server.stop();
    is_whole(&server, point);
}

fn is_whole(server: &Server, point: Failpoint) {
    for never in NEVER {
        let found = server.rows(never);
        assert!(found.is_empty(), "killed at {}: {never}: {found:?}", point.name());
    }
}

/// The places that the completion of a round passes, and whether it is there when it dies at one (invariant 28).
const COMPLETING: [(Failpoint, i64); 2] = [(Failpoint::SessionTold, 0), (Failpoint::SessionStored, 1)];

/// Killed by the completion of its round and by nothing else, which is asked for again then, with another result.
fn killed_completing(database: Database, (point, is_there): (Failpoint, i64)) {
    let mut server = server(database).start();
    let mut client = server.client();
    let id = open(&mut client, &json!({"type": "review"}));
    go(&mut client, &id, "reviews");
    go(&mut client, &id, "synthesis");
    server.stop();
    server.change("TIDEGATE_FAILPOINT", point.name());
    server.again();
    let path = format!("/sessions/{id}/complete-round");
    let wish = json!({"result": {"verdict": "first"}});
    assert_eq!(ask(&mut server.client(), "POST", &path, Some(&wish)), None, "it dies before it answers");
    eventually("it has died", || !server.is_running());
    assert!(server.ends().was_killed());

    let told = format!("SELECT COUNT(*) FROM session_events WHERE session_id = '{id}' AND event = 'completed'");
    let row = format!(
        "SELECT completed_round FROM sessions WHERE id = '{id}' AND (completed_at IS NULL) = (phase <> 'complete')"
    );
    assert_eq!((server.number(&told), server.number(&row)), (is_there, is_there), "killed at {}", point.name());
    is_whole(&server, point);
    server.unset("TIDEGATE_FAILPOINT");
    server.again();
    assert_eq!((server.number(&told), server.number(&row)), (is_there, is_there), "nobody completes it by himself");
    let mut client = server.client();
    let first = client.post(&path, &wish).is(200).json();
    let other = client.post(&path, &json!({"result": {"verdict": "other"}})).is(200).json();
    assert_eq!(first, other, "asked again, it is what it was");
    assert_eq!((server.number(&told), server.number(&row)), (1, 1));
    let closed = client.post(&format!("/sessions/{id}/close"), &json!({})).is(200).json();
    assert_eq!((&closed["status"], &closed["outcome"]), (&json!("closed"), &json!("complete")));
    let session = super::session(&mut client, &id);
    assert_eq!(session["events"][3]["data"], json!({"verdict": "first"}), "{session}");
    assert_eq!(super::events(&mut client, &id), ["opened", "moved", "moved", "completed", "closed"]);
    server.stop();
    is_whole(&server, point);
}

#[test]
fn sessions_killed_while_a_round_is_completed_it_is_completed_once_and_with_its_event_on_sqlite() {
    COMPLETING.into_iter().for_each(|place| killed_completing(Database::Sqlite, place));
}

#[test]
fn sessions_killed_while_a_round_is_completed_it_is_completed_once_and_with_its_event_on_postgres() {
    COMPLETING.into_iter().for_each(|place| killed_completing(Database::Postgres, place));
}

fn killed_at_every_place(database: Database) {
    let places = Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Sessions);
    // A transition, a resume and a close go the same way: each in its turn.
    let times =
        |point: &Failpoint| if matches!(point, Failpoint::SessionTold | Failpoint::SessionStored) { 3 } else { 1 };
    let places: Vec<(Failpoint, usize)> =
        places.flat_map(|point| (1..=times(point)).map(|nth| (*point, nth))).collect();
    assert!(places.len() >= 9, "{places:?}");
    std::thread::scope(|scope| {
        let case = |(point, nth): (Failpoint, usize)| scope.spawn(move || killed_at(database, point, nth));
        let cases: Vec<_> = places.iter().map(|place| (place, case(*place))).collect();
        let failed: Vec<_> = cases.into_iter().filter_map(|(point, case)| case.join().err().map(|_| point)).collect();
        assert!(failed.is_empty(), "killed at {failed:?}; what they said is above");
    });
}

#[test]
fn sessions_killed_at_every_place_of_a_session_each_event_is_there_once_on_sqlite() {
    killed_at_every_place(Database::Sqlite);
}

#[test]
fn sessions_killed_at_every_place_of_a_session_each_event_is_there_once_on_postgres() {
    killed_at_every_place(Database::Postgres);
}
