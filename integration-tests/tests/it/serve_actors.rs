//! The actors that carry runs out, killed on purpose under load: by a panic, a stop and a hang, each many times.
//! All runs end, none twice, and every death is counted.

use harness::{Database, HOOKED, Hook, Load, Mix, Server, WITNESSED, Witness, eventually};

const KILLS: usize = 8;
const MODES: [&str; 3] = ["panic", "stop", "hang"];
const SLOTS: usize = 4;

fn every_actor_is_killed(database: Database) {
    let workers = (0..SLOTS).map(|slot| format!("worker-{slot}"));
    let actors: Vec<String> = ["drainer", "sweeper"].map(str::to_owned).into_iter().chain(workers).collect();
    let chaos = format!("actors={} modes={} kills={KILLS} every=20ms", actors.join("+"), MODES.join("+"));
    let (witness, hook) = (Witness::new(), Hook::start());
    let mut server = Server::on(database)
        .config(&format!("{}{}", witness.task(0.03), hook.task()))
        .set("workers.slots", SLOTS)
        .set("supervisor.hang_seconds", 0.2)
        .set("supervisor.max_restarts", 1_000_000)
        .set("supervisor.sweep_seconds", 0.1)
        .set("buffer.above_per_second", 500)
        .env("TIDEGATE_CHAOS", chaos)
        .expecting("panicked at actors/src/supervisor/child.rs")
        .start();
    let mut mix = Mix::of("noop", 7);
    mix.tasks = [vec!["noop"; 14], vec![WITNESSED, HOOKED]].concat().into_iter().map(str::to_owned).collect();
    // What takes time is not to pile up while those who carry it out are dead: it all has to end.
    (mix.callers, mix.batch_max) = (3, 10);
    let load = Load::start(&server.door(), &mix);
    let all = || server.metric("tidegate_chaos_kills_total", &[]);
    eventually("every actor was killed in every way", || all() >= (actors.len() * MODES.len() * KILLS) as f64);
    for actor in &actors {
        let (target, own) = (format!("target=\"{actor}\""), format!("actor=\"{actor}\""));
        for mode in MODES {
            let kills = server.metric("tidegate_chaos_kills_total", &[&target, &format!("mode=\"{mode}\"")]);
            assert_eq!(kills, KILLS as f64, "kills of {actor} by {mode}");
        }
        // A slow machine may take one for hung besides.
        let deaths = || server.metric("tidegate_actor_restarts_total", &[&own, "injected=\"false\""]);
        eventually("every kill is a death", || deaths() >= (MODES.len() * KILLS) as f64);
    }
    load.has_more(100);
    let tally = load.stop();
    server.all_ended(&mix.envs);
    let finished = server.metric("tidegate_runs_finished_total", &[]);
    let ended = server.stop();
    let ends = tally.verify(&server);
    let ((starts, lost), deliveries) = (witness.verify(&server), hook.verify(&server));
    println!(
        "actors killed on {database:?}: {} deaths of {} actors; {} runs acknowledged; ends {ends:?}; {starts} programs started, {lost} leases lost; {deliveries} webhooks delivered",
        actors.len() * MODES.len() * KILLS,
        actors.len(),
        tally.acked.len(),
    );
    assert!(starts > 0 && lost > 0 && deliveries > 0, "no effect was under way: {starts}, {lost}, {deliveries}");
    let told = ended.stderr.lines().find(|line| line.contains("chaos:") && line.contains("kills carried out"));
    assert!(
        told.is_some_and(|line| line.contains(&format!("{0} of {0}", actors.len() * MODES.len() * KILLS))),
        "{told:?}"
    );
    let cancelled = ends.get("cancelled").copied().unwrap_or(0);
    let stored: usize = ends.values().sum();
    assert!(finished <= stored as f64, "{finished} ends were counted of {stored} runs");
    assert!(finished >= (stored - cancelled) as f64, "{finished} ends were counted of {stored} runs");
    assert_eq!(ends.get("failed"), None, "no run failed of it");
}

#[test]
fn serve_killed_actors_are_rebuilt_and_every_run_ends_once_on_sqlite() {
    every_actor_is_killed(Database::Sqlite);
}

#[test]
fn serve_killed_actors_are_rebuilt_and_every_run_ends_once_on_postgres() {
    every_actor_is_killed(Database::Postgres);
}
