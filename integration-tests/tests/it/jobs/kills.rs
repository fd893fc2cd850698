//! SIGKILL of the server wherever it works on a job: the same job goes on, each run ends once, and nothing is bought
//! twice.

use super::{TASK, are_bought_once, ids, is_over, job, server, start, submit};
use crate::survived::{ask, dies, done};
use harness::judge::doubled_keys;
use harness::{Account, Database, Protocol, Supplier};
use serde_json::json;
use storage::failpoint::{Failpoint, PassedBy};

const RUNS: usize = 10;

/// A backfill that is cancelled with runs of its own left, one of which was cancelled before, and then another one that
/// ends what is left.
fn killed_at(database: Database, point: Failpoint) {
    let supplier = Supplier::new(Protocol::OpenAi, Account::open());
    supplier.account.faults(&json!({"item_error_rate": 1.0}));
    let mut server = server(database, &supplier);
    server.change("TIDEGATE_FAILPOINT", point.name());
    server.again();
    let mut died = false;
    let mut runs = Vec::new();
    done(&mut server, &mut died, |client| {
        runs =
            ask(client, "POST", "/runs/batch", Some(&super::runs(&supplier, 0, RUNS))).map_or(vec![], |all| ids(&all));
        !runs.is_empty()
    });
    let wish = json!({"pool": TASK, "source": "daemon", "period": {"seconds": 3_600, "runs": RUNS}});
    let mut id = String::new();
    done(&mut server, &mut died, |client| {
        if let Some(made) = ask(client, "POST", "/jobs", Some(&wish)) {
            id = made["id"].as_str().expect("an id").to_owned();
        } else if let Some(found) = ask(client, "GET", "/jobs", None) {
            // It was made, and the answer was lost.
            id = found["data"][0]["id"].as_str().unwrap_or_default().to_owned();
        }
        !id.is_empty()
    });
    done(&mut server, &mut died, |client| {
        ask(client, "GET", &format!("/jobs/{id}"), None)
            .is_some_and(|job| job["round_log"][0]["carried"] == RUNS && job["items"]["queued"] == RUNS)
    });
    done(&mut server, &mut died, |client| {
        ask(client, "POST", &format!("/runs/{}/cancel", runs[0]), None).is_some_and(|run| run["status"] == "cancelled")
    });
    done(&mut server, &mut died, |client| ask(client, "POST", &format!("/jobs/{id}/cancel"), None).is_some());
    done(&mut server, &mut died, |client| {
        ask(client, "GET", &format!("/jobs/{id}"), None).is_some_and(|job| job["items"]["given_back"] == RUNS - 1)
    });
    supplier.account.faults(&json!({"item_error_rate": 0.0}));
    dies(&mut server, &mut died);
    let mut client = server.client();
    let next = start(&mut client, &json!({"pool": TASK}));
    let over = is_over(&mut client, &next);
    assert_eq!(over["items"]["succeeded"], RUNS - 1, "killed at {}: {over}", point.name());
    assert_eq!(client.read(&runs[0])["status"], "cancelled");
    let ledger = supplier.account.ledger();
    assert!(ledger.billed_twice.is_empty() && doubled_keys(&ledger).is_empty(), "{}: {ledger:?}", point.name());
    assert_eq!(ledger.distinct_items, (RUNS - 1) as u64, "{}", point.name());
    server.stop();
}

fn killed_at_every_place(database: Database) {
    let places: Vec<_> = Failpoint::ALL.iter().filter(|point| point.passed_by() == PassedBy::Jobs).collect();
    assert!(places.len() >= 7, "{places:?}");
    std::thread::scope(|scope| {
        let cases: Vec<_> = places.iter().map(|point| (point, scope.spawn(|| killed_at(database, **point)))).collect();
        let failed: Vec<_> = cases.into_iter().filter_map(|(point, case)| case.join().err().map(|_| point)).collect();
        assert!(failed.is_empty(), "killed at {failed:?}; what they said is above");
    });
}

#[test]
fn jobs_killed_at_every_place_of_a_job_every_run_ends_once_on_sqlite() {
    killed_at_every_place(Database::Sqlite);
}

#[test]
fn jobs_killed_at_every_place_of_a_job_every_run_ends_once_on_postgres() {
    killed_at_every_place(Database::Postgres);
}

/// Where `process` dies too: around the submit, the answer, the collection and the rounds.
fn killed_around_a_batch(protocol: Protocol) {
    let places = [
        Failpoint::RoundOpened,
        Failpoint::PlanOpen,
        Failpoint::PlanStored,
        Failpoint::CreateCommitted,
        Failpoint::CreateLastByte,
        Failpoint::CreateAnswered,
        Failpoint::CollectHalf,
        Failpoint::SettleOpen,
        Failpoint::SettleStored,
        Failpoint::RoundClosed,
        Failpoint::JobFinishing,
    ];
    std::thread::scope(|scope| {
        let case = |point: Failpoint| {
            let supplier = Supplier::new(protocol, Account::open());
            let mut server = server(Database::Sqlite, &supplier).start();
            let runs = submit(&mut server.client(), &supplier, 0, RUNS);
            server.stop();
            server.change("TIDEGATE_FAILPOINT", point.name());
            server.again();
            let id = start(&mut server.client(), &json!({"pool": TASK, "limits": {"max_batch_requests": 4}}));
            let mut died = false;
            done(&mut server, &mut died, |client| {
                ask(client, "GET", &format!("/jobs/{id}"), None).is_some_and(|job| job["finished_at"].is_string())
            });
            dies(&mut server, &mut died);
            let mut client = server.client();
            let over = job(&mut client, &id);
            assert_eq!(
                (&over["stop_reason"], &over["items"]["succeeded"]),
                (&json!("drained"), &json!(RUNS)),
                "{over}"
            );
            are_bought_once(&mut client, &supplier, &runs);
            server.stop();
        };
        let cases: Vec<_> = places.into_iter().map(|point| (point, scope.spawn(move || case(point)))).collect();
        let failed: Vec<_> = cases.into_iter().filter_map(|(point, case)| case.join().err().map(|_| point)).collect();
        assert!(failed.is_empty(), "killed at {failed:?}; what they said is above");
    });
}

#[test]
fn jobs_killed_around_a_batch_the_same_job_goes_on_and_buys_nothing_twice_openai() {
    killed_around_a_batch(Protocol::OpenAi);
}

#[test]
fn jobs_killed_around_a_batch_the_same_job_goes_on_and_buys_nothing_twice_anthropic() {
    killed_around_a_batch(Protocol::Anthropic);
}
