//! SIGKILL at random instants, while answers are lost, errors follow acceptance, listings lag and downloads
//! are cut: nothing is bought twice, nothing is lost. The seed is printed; `TIDEGATE_SEED` repeats a run.

use harness::{Case, Database, Protocol, Verdict};
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const KILLS_PER_CASE: usize = 5;
const LINES: usize = 30;
const AT_ONCE: usize = 4;

fn kills_wanted() -> usize {
    if std::env::var_os("TIDEGATE_SOAK").is_some() { 4_000 } else { 200 }
}

fn seed() -> u64 {
    std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

/// A provider that misbehaves in several ways at once, each within the settle time.
fn trouble(rng: &mut rand::rngs::StdRng) -> serde_json::Value {
    json!({
        "latency_ms": rng.random_range(30..200),
        "lose_answers": rng.random_range(0..2),
        "error_after_accept": rng.random_range(0..2),
        "hide_from_list_ms": rng.random_range(0..150),
        "cut_downloads": rng.random_range(0..3),
        "item_error_rate": 0.1,
        "double_rate": 0.05,
        "reorder": rng.random_bool(0.5),
        "unavailable_rate": 0.02,
        "rate_limits": rng.random_range(0..2),
    })
}

#[test]
fn killed_at_random_instants_under_trouble_every_item_is_bought_once() {
    let (seed, wanted) = (seed(), kills_wanted());
    println!("random kills: TIDEGATE_SEED={seed}");
    let cases = wanted.div_ceil(KILLS_PER_CASE);
    let next = AtomicUsize::new(0);
    let (kills, adopted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    // Cases go on until enough kills have hit a process that was still at work.
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if (number >= cases && kills.load(Ordering::SeqCst) >= wanted) || number >= cases * 3 {
                        return;
                    }
                    let mut rng = rand::rngs::StdRng::seed_from_u64(seed.wrapping_add(number as u64));
                    if let Err(why) = one(number, &mut rng, &kills, &adopted) {
                        failures.lock().expect("failures").push(format!("case {number}: {why}"));
                    }
                }
            });
        }
    });
    let (kills, adopted) = (kills.into_inner(), adopted.into_inner());
    let failures = failures.into_inner().expect("failures");
    println!("random kills: {kills} kills, {adopted} batches adopted, {} failures", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(kills >= wanted, "only {kills} kills hit a running process");
    assert!(adopted > 0, "no ambiguous create was ever resolved: the run would prove nothing");
}

fn one(number: usize, rng: &mut rand::rngs::StdRng, kills: &AtomicUsize, adopted: &AtomicUsize) -> Result<(), String> {
    let database = if number % 4 == 3 { Database::Postgres } else { Database::Sqlite };
    let protocol = if number.is_multiple_of(2) { Protocol::OpenAi } else { Protocol::Anthropic };
    let case = Case::new(database, protocol, LINES);
    let trouble = trouble(rng);
    case.account.faults(&trouble);
    for _ in 0..KILLS_PER_CASE {
        let after = Duration::from_millis(rng.random_range(5..900));
        let ended = case.kill_after(case.process(), after);
        if !ended.was_killed() {
            break;
        }
        kills.fetch_add(1, Ordering::SeqCst);
    }
    let ended = case.run();
    if ended.code != Some(0) {
        return Err(format!("{database:?} {protocol:?} {trouble}: the last run did not finish: {ended:?}"));
    }
    let found = ended.summary()["batches"]["adopted"].as_u64().unwrap_or(0);
    adopted.fetch_add(usize::try_from(found).unwrap_or(0), Ordering::SeqCst);
    let verdict = Verdict::on(&case);
    if !verdict.is_clean() {
        return Err(format!("{database:?} {protocol:?} {trouble}: {verdict:?}\n{}", ended.stderr));
    }
    Ok(())
}
