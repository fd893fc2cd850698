//! That whatever a program began ends with it, with its stop, and with its node.

use super::{
    PLENTY, Underway, alive, assignment, exec, folders_of, marker, nothing_is_left_of, program, run, runtime, shell,
    succeeded, zombies_below,
};
use actors::executor::exec::ExecTask;
use actors::executor::{Assignment, Executor, Outcome, Output, Retry, Stop};
use harness::eventually;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const DAY: Duration = Duration::from_secs(86_400);

/// A tree that does all it can to stay: it ignores signals, changes its session, loses its parents, holds stdout.
fn stubborn(marker: &str) -> String {
    format!(
        "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM HUP; (setsid sleep {marker} &) ; sleep {marker}' & \
         (sleep {marker} &); echo ready; while :; do sleep {marker}; done"
    )
}

#[test]
fn s003_z4_a_program_that_heeds_sigterm_ends_well() {
    let task = ExecTask {
        grace: DAY,
        ..shell("trap 'printf goodbye; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
    };
    let mut run = Underway::begin(&exec(task), assignment("{}"), PLENTY);
    run.said("ready");
    run.stop(Stop::Cancelled);
    let ended = run.end();
    assert_eq!(ended.outcome, Outcome::Cancelled);
    assert_eq!(ended.stdout(), "ready\ngoodbye");
    assert!(ended.chunks.iter().filter(|chunk| chunk.end.is_some()).count() == 2);
}

#[test]
fn s003_z4_a_program_that_ignores_sigterm_is_killed_after_the_grace() {
    let marker = marker();
    let task = ExecTask { grace: Duration::from_millis(100), ..shell(&stubborn(&marker)) };
    let job = assignment("{}");
    let id = job.run.clone();
    let mut run = Underway::begin(&exec(task), job, PLENTY);
    run.said("ready");
    eventually("the tree stands", || alive(&marker) >= 4);
    run.stop(Stop::Cancelled);
    assert_eq!(run.end().outcome, Outcome::Cancelled);
    assert_eq!(alive(&marker), 0, "all of it is gone before the outcome is known");
    assert_eq!(folders_of(&id), 0);
}

#[test]
fn s003_z4_a_stopped_program_hears_sigterm_too() {
    let mut run =
        Underway::begin(&exec(ExecTask { grace: DAY, ..shell("echo ready; kill -STOP $$") }), assignment("{}"), PLENTY);
    run.said("ready");
    run.stop(Stop::Cancelled);
    assert_eq!(run.end().outcome, Outcome::Cancelled);
}

#[test]
fn s003_z7_a_run_out_of_time_is_ended_and_one_that_has_ended_is_not() {
    let marker = marker();
    let mut long = Underway::begin(&exec(shell(&format!("echo ready; sleep {marker}"))), assignment("{}"), PLENTY);
    long.said("ready");
    long.stop(Stop::TimedOut);
    assert_eq!(long.end().outcome, Outcome::TimedOut);
    nothing_is_left_of(&marker);

    let short = Underway::begin(&exec(shell("exit 0")), assignment("{}"), PLENTY);
    eventually("it has ended", || short.outcome.is_finished() || short.chunks.len() == 1);
    let stop = short.stop.clone();
    assert_eq!(short.end().outcome, succeeded(0));
    stop.send_replace(Some(Stop::TimedOut));
}

#[test]
fn a_run_that_is_stopped_before_it_began_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let touched = folder.path().join("touched");
    for (why, outcome) in
        [(Stop::Cancelled, Outcome::Cancelled), (Stop::TimedOut, Outcome::TimedOut), (Stop::Lost, Outcome::Lost)]
    {
        let (_asker, stop) = watch::channel(Some(why));
        let (sender, _chunks) = mpsc::channel(1);
        let carried = exec(shell(&format!("touch {}", touched.display()))).carry(
            assignment("{}"),
            stop,
            Output::new(PLENTY, sender),
        );
        assert_eq!(runtime().block_on(carried), outcome);
    }
    assert!(!touched.exists());
}

#[test]
fn a_lost_run_is_killed_without_grace_though_nobody_reads_its_output() {
    let marker = marker();
    let script = format!("{} & head -c 10000000 /dev/zero; sleep {marker}", stubborn(&marker));
    let mut run = Underway::begin(&exec(ExecTask { grace: DAY, ..shell(&script) }), assignment("{}"), PLENTY);
    run.said("ready");
    run.stop(Stop::Lost);
    let outcome = runtime().block_on(&mut run.outcome).expect("it does not panic");
    assert_eq!(outcome, Outcome::Lost);
    assert_eq!(alive(&marker), 0);
}

#[test]
fn a_stop_that_becomes_worse_is_heeded_again() {
    let marker = marker();
    let mut run =
        Underway::begin(&exec(ExecTask { grace: DAY, ..shell(&stubborn(&marker)) }), assignment("{}"), PLENTY);
    run.said("ready");
    run.stop(Stop::Cancelled);
    run.stop(Stop::Lost);
    assert_eq!(run.end().outcome, Outcome::Lost);
    assert_eq!(alive(&marker), 0);
}

#[test]
fn s003_z8_what_a_program_leaves_behind_ends_with_it() {
    let marker = marker();
    let script = format!(
        "(setsid sleep {marker} &); sleep {marker} & setsid sh -c 'sleep {marker} & exec sleep {marker}' & exit 0"
    );
    assert_eq!(run(shell(&script), "{}").outcome, succeeded(0), "nobody who holds stdout can make it wait");
    assert_eq!(alive(&marker), 0);
}

#[test]
fn a_storm_of_processes_is_ended_to_the_last() {
    let marker = marker();
    let script = format!(
        "i=0; while [ $i -lt 100 ]; do setsid sleep {marker} & (sleep {marker} &); i=$((i+1)); done; echo ready; \
         while :; do setsid sh -c 'setsid sleep {marker} &' ; done"
    );
    let mut run =
        Underway::begin(&exec(ExecTask { grace: Duration::ZERO, ..shell(&script) }), assignment("{}"), PLENTY);
    run.said("ready");
    run.stop(Stop::Cancelled);
    assert_eq!(run.end().outcome, Outcome::Cancelled);
    assert_eq!(alive(&marker), 0);
}

#[test]
fn dropping_a_run_ends_it_and_leaves_no_zombie() {
    let marker = marker();
    let job = assignment("{}");
    let id = job.run.clone();
    let mut run = Underway::begin(&exec(ExecTask { grace: DAY, ..shell(&stubborn(&marker)) }), job, PLENTY);
    run.said("ready");
    run.outcome.abort();
    nothing_is_left_of(&marker);
    eventually("its folder is gone", || folders_of(&id) == 0);
    eventually("every guard was waited for", || zombies_below(std::process::id()) == 0);
}

#[test]
fn orphans_that_have_ended_are_cleared_away_while_the_program_runs() {
    let marker = marker();
    let script =
        format!("i=0; while [ $i -lt 20 ]; do (sleep 0.01 &); i=$((i+1)); done; echo $PPID ready; sleep {marker}");
    let mut run = Underway::begin(&exec(shell(&script)), assignment("{}"), PLENTY);
    let said = run.said("ready");
    let guard: u32 = said.split(' ').next().and_then(|pid| pid.parse().ok()).expect("the guard's number");
    eventually("no zombie is left", || zombies_below(guard) == 0);
    assert!(alive(&marker) > 0, "the program is still there");
    run.stop(Stop::Lost);
    run.end();
}

#[test]
fn a_program_dies_with_its_guard() {
    let marker = marker();
    let job = assignment("{}");
    let id = job.run.clone();
    let mut run = Underway::begin(&exec(shell(&format!("echo $PPID ready; exec sleep {marker}"))), job, PLENTY);
    let said = run.said("ready");
    let guard = said.split(' ').next().expect("the guard's number");
    eventually("the program runs", || alive(&marker) == 1);
    assert!(Command::new("kill").args(["-9", guard]).status().expect("kill").success());
    let ended = run.end();
    let Outcome::Failed { code, retry, .. } = &ended.outcome else { panic!("{:?}", ended.outcome) };
    assert_eq!((code.as_str(), *retry), ("guard_died", Retry::WithBackoff));
    nothing_is_left_of(&marker);
    assert_eq!(folders_of(&id), 0);
}

/// The test starts itself again as a node with one program, and kills that node as nothing can be caught.
#[test]
fn programs_die_with_a_node_that_is_killed() {
    if let Ok(marker) = std::env::var("TIDEGATE_TEST_MARKER") {
        let mut run =
            Underway::begin(&exec(ExecTask { grace: DAY, ..shell(&stubborn(&marker)) }), assignment("{}"), PLENTY);
        run.said("ready");
        println!("\nunder way {}", run.seen.len());
        run.end();
        return;
    }
    let marker = marker();
    let name = "executors::ends::programs_die_with_a_node_that_is_killed";
    let mut node = Command::new(std::env::current_exe().expect("the test"));
    node.args([name, "--exact", "--nocapture"]).env("TIDEGATE_TEST_MARKER", &marker).stdout(Stdio::piped());
    let mut node = node.spawn().expect("a node");
    let lines = BufReader::new(node.stdout.take().expect("its stdout")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("under way")), "it never began");
    eventually("the tree stands", || alive(&marker) >= 4);
    node.kill().expect("SIGKILL");
    node.wait().expect("its end");
    nothing_is_left_of(&marker);
}

/// A node may be frozen between its look at its lease and the order to the guard (F12).
#[test]
fn nothing_is_begun_for_a_run_that_somebody_else_may_have_by_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let task = program("/bin/touch", &[trace.to_str().expect("a path")]);
    for (start_by, outcome) in [(storage::boot_clock::since_boot(), Outcome::Lost), (Duration::MAX, succeeded(0))] {
        let order = Assignment { start_by, ..assignment("null") };
        let ended = Underway::begin(&exec(task.clone()), order.clone(), PLENTY).end();
        assert_eq!(ended.outcome, outcome, "{}", ended.stderr());
        assert_eq!(trace.exists(), outcome == succeeded(0));
        assert_eq!(folders_of(&order.run), 0);
    }
}
