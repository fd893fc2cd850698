//! Rounds of SIGKILL, SIGSTOP beyond the lease, an immediate restart of PostgreSQL and a cut network, each on a random
//! node of three, under callers and under commands that buy files. Nothing acknowledged is lost, nothing ends or is
//! bought twice, zombies write nothing, and work goes on elsewhere in time (F8, F12, F16, F21, F49; invariants 1–7, 9,
//! 10, 12, 14, 17). The seed is printed; `TIDEGATE_SEED` repeats the order of the faults.

use crate::aftermath::{self, runs_held_up, took_over_in_time};
use crate::{LEASE_MS, files, is_soak, seed, short_lived};
use harness::Supplier;
use harness::history::now_ms;
use harness::{Account, Cluster, HOOKED, Hook, Kind, Load, Mix, Protocol, WITNESSED, Wire, Witness, eventually};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const NODES: usize = 3;
/// What callers take for no answer.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    Killed,
    Frozen,
    /// PostgreSQL, not a node.
    Restarted,
    /// The way to PostgreSQL is a black hole.
    Dropped,
    /// Its connections are closed, and it gets no others.
    Cut,
}

/// One fault, from its begin until all is well again.
#[derive(Debug)]
pub struct Round {
    pub fault: Fault,
    /// The id of the node that it hit.
    pub node: Option<String>,
    pub from: i64,
    pub to: i64,
    /// Writes of a zombie that were refused.
    pub refused: usize,
    /// Nodes that it did not hit, or not first of all, and that were replaced all the same.
    pub replaced: usize,
}

fn each_kind() -> usize {
    if is_soak() { 75 } else { 4 }
}

/// So many of each kind in a random order; the network goes either way in turns.
fn plan(rng: &mut StdRng) -> Vec<Fault> {
    let mut plan = Vec::new();
    for number in 0..each_kind() {
        let network = if number % 2 == 0 { Fault::Dropped } else { Fault::Cut };
        plan.extend([Fault::Killed, Fault::Frozen, Fault::Restarted, network]);
    }
    plan.shuffle(rng);
    plan
}

/// Waits until a node carries runs out, so that there is something to lose; returns its id.
fn at_work(cluster: &Cluster, index: usize) -> String {
    let id = cluster.id(index);
    eventually("the node carries runs out", || cluster.held_by(&id) > 0);
    id
}

/// Waits for the end of a node that finds itself replaced, starts it again, and returns how often it was refused.
fn finds_itself_replaced(cluster: &mut Cluster, index: usize) -> usize {
    let server = &mut cluster.nodes[index].server;
    let ended = server.ends();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    server.again();
    let refusals = ["was declared gone", "an attempt ended that was not ours any more", "has moved on"];
    ended.stderr.lines().filter(|line| refusals.iter().any(|words| line.contains(words))).count()
}

fn hit_a_node(cluster: &mut Cluster, fault: Fault, index: usize) -> (String, i64, usize) {
    let id = at_work(cluster, index);
    let from = now_ms();
    let node = &mut cluster.nodes[index];
    match fault {
        Fault::Killed => {
            node.server.kill9();
            cluster.is_replaced(&id, 0);
            cluster.nodes[index].server.again();
            (id, from, 0)
        }
        Fault::Frozen => {
            node.server.signal("STOP");
            cluster.is_replaced(&id, LEASE_MS / 2);
            cluster.nodes[index].server.signal("CONT");
            let refused = finds_itself_replaced(cluster, index);
            (id, from, refused)
        }
        Fault::Dropped | Fault::Cut => {
            node.proxy.set(if fault == Fault::Cut { Wire::Cut } else { Wire::Drop });
            node.server.says("letting go of all runs");
            cluster.is_replaced(&id, LEASE_MS / 2);
            cluster.nodes[index].proxy.set(Wire::Pass);
            let refused = finds_itself_replaced(cluster, index);
            (id, from, refused)
        }
        Fault::Restarted => unreachable!("this hits no node"),
    }
}

fn restart_postgres(cluster: &mut Cluster) -> i64 {
    let from = now_ms();
    cluster.postgres.crash();
    cluster.postgres.again();
    from
}

/// Waits until all nodes are ready. One that was away from the database for longer than its lease, through no fault
/// of this round's, may end as it should when others have replaced it; it is started again. Returns how many did.
fn all_is_well(cluster: &mut Cluster) -> usize {
    let mut replaced = 0;
    for node in &mut cluster.nodes {
        let server = &mut node.server;
        eventually("a node is ready", || {
            if !server.is_running() {
                let ended = server.ends();
                assert_eq!(ended.code, Some(5), "{ended:?}");
                server.again();
                replaced += 1;
            }
            server.is_ready()
        });
    }
    replaced
}

fn round(cluster: &mut Cluster, fault: Fault, index: usize, load: &Load) -> Round {
    let (node, from, refused) = match fault {
        Fault::Restarted => (None, restart_postgres(cluster), 0),
        _ => {
            let (id, from, refused) = hit_a_node(cluster, fault, index);
            (Some(id), from, refused)
        }
    };
    let (mut replaced, before) = (0, load.acked());
    eventually("runs are taken in", || {
        replaced += all_is_well(cluster);
        load.acked() >= before + 30
    });
    Round { fault, node, from, to: now_ms(), refused, replaced }
}

/// Who held each batch, and since when, as seen from outside.
fn look_at_batches(store: &str, stop: &AtomicBool) -> HashMap<String, Vec<(i64, String)>> {
    let mut holders = HashMap::<String, Vec<(i64, String)>>::new();
    let (_held, never) = channel::<()>();
    while !stop.load(Ordering::SeqCst) {
        let live =
            "SELECT id, holder FROM batches WHERE state NOT IN ('collected', 'abandoned') AND holder IS NOT NULL";
        // The database may be away.
        for row in harness::sql::try_rows(store, live).unwrap_or_default() {
            let (id, holder) = (row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default());
            let known = holders.entry(id).or_default();
            if known.last().is_none_or(|(_, last)| *last != holder) {
                known.push((now_ms(), holder));
            }
        }
        let _ = never.recv_timeout(Duration::from_millis(50));
    }
    holders
}

/// How long batches that a node held at its end were held up by that.
fn batches_held_up(holders: &HashMap<String, Vec<(i64, String)>>, ends: &[(String, i64)]) -> Vec<i64> {
    let mut spans = Vec::new();
    for (node, from) in ends {
        for hands in holders.values() {
            let pairs = hands.windows(2).filter(|pair| pair[0].1 == *node && pair[0].0 <= *from);
            spans.extend(pairs.map(|pair| pair[1].0 - from).filter(|span| *span >= 0));
        }
    }
    spans.sort_unstable();
    spans
}

fn tasks(witness: &Witness, hook: &Hook, suppliers: &[Supplier]) -> String {
    let capped = "[envs.\"capped/dev\"]\nmax_running = 6\n";
    let providers: String = suppliers.iter().map(Supplier::config).collect();
    format!("{}{}{capped}{providers}", witness.task(0.15), hook.task())
}

#[test]
fn three_nodes_killed_frozen_cut_off_and_without_a_database_lose_and_repeat_nothing() {
    let seed = seed();
    println!("faults on three nodes: TIDEGATE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = plan(&mut rng);
    let (witness, hook) = (Witness::new(), Hook::start());
    let suppliers = [Protocol::OpenAi, Protocol::Anthropic].map(|protocol| Supplier::new(protocol, Account::open()));
    let config = tasks(&witness, &hook, &suppliers);
    let cluster = Cluster::of(NODES, |server| {
        // Few slots, so that more is claimed than is under way; short polls of the store, so that they matter.
        short_lived(server).config(&config).set("workers.slots", 4).expecting("letting go of all runs")
    });
    let mut cluster = cluster.start();
    let mut mix = Mix::of("noop", seed);
    mix.callers = 8;
    mix.envs.push("capped/dev".to_owned());
    mix.tasks = ["noop", "noop", "noop", "noop", "noop", WITNESSED, HOOKED].map(str::to_owned).to_vec();
    (mix.batch_max, mix.read_one_in, mix.history) = (5, 8, true);
    // There has to be room: what waits for others would be counted as what waits for a fault.
    mix.pause = Duration::from_millis(40);
    let load = Load::over(&cluster.doors(), PATIENCE, &mix);
    let (stop, store) = (AtomicBool::new(false), cluster.postgres.url());
    let (rounds, tally, bought, holders) = std::thread::scope(|scope| {
        let _ends = crate::Ends(&stop);
        let files = scope.spawn(|| files::buy(&suppliers, &store, seed, &stop));
        let holders = scope.spawn(|| look_at_batches(&store, &stop));
        let rounds: Vec<Round> =
            plan.iter().map(|fault| round(&mut cluster, *fault, rng.random_range(0..NODES), &load)).collect();
        let tally = load.stop();
        stop.store(true, Ordering::SeqCst);
        let bought = files.join().expect("files are bought");
        all_is_well(&mut cluster);
        cluster.is_at_rest();
        (rounds, tally, bought, holders.join().expect("the batches are looked at"))
    });
    let refused: Vec<usize> = rounds.iter().map(|round| round.refused).collect();
    let replaced: Vec<(Fault, usize)> =
        rounds.iter().map(|round| (round.fault, round.replaced)).filter(|(_, nodes)| *nodes > 0).collect();
    println!(
        "{} rounds: {:?}; {} runs acknowledged, {} by a key, {} unanswered, {} sent again; {} requests, {} % of them done; refused {:?}; writes of zombies refused {refused:?}; others replaced in {replaced:?}",
        rounds.len(),
        rounds.iter().map(|round| (round.fault, round.to - round.from)).collect::<Vec<_>>(),
        tally.acked.len(),
        tally.keys.len(),
        tally.unanswered,
        tally.retried,
        tally.history.count(Kind::Invoke),
        tally.history.ok_percent(),
        tally.refused,
    );
    let ends = tally.verify(&cluster.nodes[0].server);
    let ((starts, lost), deliveries) =
        (witness.verify(&cluster.nodes[0].server), hook.verify(&cluster.nodes[0].server));
    println!("ends {ends:?}; {starts} programs started, {lost} of their leases lost; {deliveries} webhooks delivered");
    assert_eq!(ends.get("failed"), None, "attempts were used up");
    let creates = aftermath::files_were_bought_once(&cluster, &suppliers, &bought);
    println!("{} files bought, {} commands killed, {creates} creates", bought.files, bought.deaths.len());
    let stale = aftermath::started_without_a_lease(&cluster, &witness, &rounds);
    let (excused, beside) = aftermath::started_beside_another(&witness, &rounds);
    println!("{excused} programs were started beside one whose node was frozen");
    let hit = rounds.iter().filter_map(|round| Some((round.node.clone()?, round.from)));
    let batches = batches_held_up(&holders, &hit.chain(bought.deaths.iter().cloned()).collect::<Vec<_>>());
    let (taken_back, going_on) = runs_held_up(&cluster, &witness, &rounds);
    let late = [
        took_over_in_time("runs taken back", &taken_back),
        took_over_in_time("runs that go on", &going_on),
        took_over_in_time("batches taken over", &batches),
    ];
    cluster.nodes.iter_mut().for_each(|node| drop(node.server.stop()));
    for fault in [Fault::Killed, Fault::Frozen, Fault::Restarted] {
        assert_eq!(rounds.iter().filter(|round| round.fault == fault).count(), each_kind());
    }
    let zombies = |round: &&Round| matches!(round.fault, Fault::Frozen | Fault::Dropped | Fault::Cut);
    let unseen = rounds.iter().filter(zombies).find(|round| round.refused == 0);
    assert!(unseen.is_none(), "a zombie wrote nothing that could be refused: {unseen:?}");
    assert!(tally.history.ok_percent() >= 50, "hardly anything was answered: {} %", tally.history.ok_percent());
    assert!(stale.is_empty(), "{} programs were started without a lease:\n{}", stale.len(), stale.join("\n"));
    assert!(beside.is_empty(), "{} programs were started beside another:\n{}", beside.len(), beside.join("\n"));
    assert!(late.iter().all(Option::is_none), "{late:#?}");
    assert!(starts > rounds.len() * 10 && deliveries > rounds.len() * 10, "{starts} {deliveries}");
    assert!(
        lost > 0 && bought.files > 0 && !bought.deaths.is_empty() && !batches.is_empty(),
        "nothing was under way when it was hit"
    );
}
