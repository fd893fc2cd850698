//! Chaos as an operator has it: off until it is wanted, told apart from real faults, written down, and by a plan.

use harness::{Client, Database, Load, Mix, Server, eventually};
use serde_json::{Value, json};
use std::process::Output;

fn server(database: Database) -> Server {
    Server::on(database).set("chaos.enabled", true).set("workers.slots", 3).set("supervisor.hang_seconds", 0.2)
}

fn command(server: &Server, args: &[&str]) -> Output {
    let url = format!("http://{}", server.door().addr().expect("it listens"));
    let mut command = server.command(&[args, &["-o", "json"]].concat());
    command.env("TIDEGATE_SERVER", url).output().expect("it is started")
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn actor(client: &mut Client, name: &str) -> Value {
    let actors = client.list("/actors");
    actors.into_iter().find(|actor| actor["name"] == name).unwrap_or_else(|| panic!("there is no {name}"))
}

fn kills_written_down(client: &mut Client) -> usize {
    let (mut kills, mut missed, mut cursor) = (0, 0, String::new());
    loop {
        let page = client.get(&format!("/audit?limit=200{cursor}")).is(200).json();
        for deed in page["data"].as_array().expect("a list") {
            kills += usize::from(deed["action"] == "actor.kill");
            missed += usize::from(deed["action"] == "actor.kill.missed");
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return kills - missed,
        }
    }
}

#[test]
fn nobody_is_killed_where_nobody_has_allowed_it() {
    let mut server = Server::on(Database::Sqlite).start();
    let mut client = server.client();
    client.post("/actors/sweeper/kill", &json!({})).is_problem(409, "conflict");
    let refused = command(&server, &["actors", "kill", "sweeper"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chaos.enabled"), "{refused:?}");
    assert_eq!(actor(&mut client, "sweeper")["generation"], 1);
    assert_eq!(client.list("/audit"), [Value::Null; 0], "what is not done is not written down");
    let plan = server.dir.path().join("plan.toml");
    std::fs::write(&plan, "kills = 3").expect("a plan");
    let refused = command(&server, &["chaos", "plan", plan.to_str().expect("a path")]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    server.stop();
}

#[test]
fn a_kill_that_was_wanted_uses_up_no_budget_and_is_written_down() {
    let mut server = server(Database::Sqlite)
        .set("supervisor.max_restarts", 1)
        .expecting("panicked at actors/src/supervisor/child.rs")
        .start();
    let mut client = server.client();
    for bad in [json!({"mode": "nap"}), json!({"how": "stop"})] {
        assert_eq!(client.post("/actors/drainer/kill", &bad).status, 400);
    }
    client.post("/actors/nobody/kill", &json!({})).is_problem(404, "not_found");
    for (nth, mode) in ["panic", "stop", "hang", "stop"].into_iter().enumerate() {
        let killed = command(&server, &["actors", "kill", "drainer", "--mode", mode]);
        assert_eq!(killed.status.code(), Some(0), "{killed:?}");
        assert_eq!(json_of(&killed)["generation"], nth + 1);
        eventually("it is rebuilt", || {
            let now = actor(&mut client, "drainer");
            now["up"] == true && now["generation"] == nth + 2
        });
    }
    let drainer = actor(&mut client, "drainer");
    assert_eq!(
        (&drainer["restarts"], &drainer["injected"], &drainer["recent_deaths"]),
        (&json!(4), &json!(4), &json!(0))
    );
    assert!(drainer["restart_p99_seconds"].as_f64().is_some_and(|span| span < 5.0), "{drainer}");
    assert_eq!(drainer["last_panic"], "killed on purpose");
    assert_eq!(server.metric("tidegate_actor_restarts_total", &["actor=\"drainer\"", "injected=\"true\""]), 4.0);
    assert_eq!(server.metric("tidegate_chaos_kills_total", &["target=\"drainer\"", "mode=\"stop\""]), 2.0);
    assert_eq!(kills_written_down(&mut client), 4);
    let deed = client.list("/audit").remove(0);
    assert_eq!((&deed["target"], &deed["data"]), (&json!("drainer"), &json!({"mode": "stop"})));
    server.stop();
}

/// It answers nothing any more: what is sent to it stays, a ping at least, until it is taken for hung.
#[test]
fn what_waits_for_an_actor_that_hangs_is_told_and_goes_with_it() {
    let mut server = server(Database::Sqlite).set("supervisor.hang_seconds", 6).start();
    let mut client = server.client();
    let depth = |server: &Server| server.metric("tidegate_actor_mailbox_depth", &["actor=\"sweeper\""]);
    assert_eq!(command(&server, &["actors", "kill", "sweeper", "--mode", "hang"]).status.code(), Some(0));
    eventually("a message waits for it", || actor(&mut client, "sweeper")["mailbox_depth"] == 1);
    eventually("that is told too", || depth(&server) == 1.0);
    assert_eq!(actor(&mut client, "sweeper")["generation"], 1, "it is not taken for hung yet");
    let listed = command(&server, &["actors", "list"]);
    let listed = json_of(&listed)["data"].as_array().cloned().unwrap_or_default();
    assert!(listed.iter().any(|actor| actor["mailbox_depth"] == 1), "{listed:?}");
    eventually("its successor has nothing before it", || {
        let now = actor(&mut client, "sweeper");
        now["up"] == true && now["generation"] == 2 && now["mailbox_depth"] == 0 && depth(&server) == 0.0
    });
    server.stop();
}

fn by_a_plan(database: Database) {
    let soak = std::env::var_os("TIDEGATE_SOAK").is_some();
    let kills: u64 = if soak { 1_700 } else { 120 };
    let mut server = server(database)
        .set("supervisor.max_restarts", 1)
        .expecting("panicked at actors/src/supervisor/child.rs")
        .start();
    let mut client = server.client();
    let plan = server.dir.path().join("plan.toml");
    let plan = |text: &str| {
        std::fs::write(&plan, text).expect("a plan");
        plan.to_str().expect("a path").to_owned()
    };
    for bad in ["kills = 0", "kills = 1\ntargets = [\"nobody\"]", "kills = 1\nmodes = [\"nap\"]", "rate = 1"] {
        let refused = command(&server, &["chaos", "plan", &plan(bad)]);
        assert_eq!(refused.status.code(), Some(2), "{bad}: {refused:?}");
    }
    let text = plan(&format!("kills = {kills}\nper_minute = 1800\nseed = 7\n"));
    let dry = command(&server, &["chaos", "plan", &text, "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{dry:?}");
    assert_eq!(kills_written_down(&mut client), 0, "nobody was killed");
    let mut mix = Mix::of("noop", 7);
    (mix.callers, mix.batch_max) = (2, 10);
    let load = Load::start(&server.door(), &mix);
    let ran = command(&server, &["chaos", "plan", &text]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    load.has_more(100);
    let tally = load.stop();
    let report = json_of(&ran);
    let victims = report["data"].as_array().expect("a list");
    let sum = |name: &str| victims.iter().filter_map(|victim| victim[name].as_u64()).sum::<u64>();
    assert_eq!((sum("kills"), sum("restarts")), (kills, kills), "{report}");
    // The one from before the plan has said nothing for longer than the server waits.
    assert_eq!(kills_written_down(&mut server.client()), usize::try_from(kills).expect("few"));
    assert_eq!(server.metric("tidegate_chaos_kills_total", &[]), kills as f64);
    assert_eq!(server.metric("tidegate_actor_restarts_total", &["injected=\"true\""]), kills as f64);
    assert_eq!(server.metric("tidegate_actor_restarts_total", &["injected=\"false\""]), 0.0);
    let slowest = victims.iter().filter_map(|victim| victim["restart_p99_seconds"].as_f64()).fold(0.0, f64::max);
    println!("chaos on {database:?}: {kills} kills of {} actors; slowest restart p99 {slowest:.3} s", victims.len());
    // Beside all other tests; by itself it is a second at most, see the suite of nodes.
    assert!(slowest <= 5.0, "{report}");
    server.all_ended(&mix.envs);
    server.stop();
    tally.verify(&server);
}

#[test]
fn actors_killed_by_a_plan_are_rebuilt_and_all_that_is_told_of_it_agrees_on_sqlite() {
    by_a_plan(Database::Sqlite);
}

#[test]
fn actors_killed_by_a_plan_are_rebuilt_and_all_that_is_told_of_it_agrees_on_postgres() {
    by_a_plan(Database::Postgres);
}
