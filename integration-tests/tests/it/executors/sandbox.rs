//! What a program can see and use.

use super::{PLENTY, Underway, assignment, exec, program, run, shell};
use actors::executor::exec::{ExecTask, Limits, shield};
use actors::executor::{Outcome, Retry};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

const CANARY: &str = "canary-5d2f";

/// The test starts itself again as a node whose environment holds secrets; what the programs of that node
/// find is looked at there.
#[test]
fn s16_a_programs_environment_is_clean_and_the_nodes_own_is_closed_to_it() {
    if std::env::var("TIDEGATE_TEST_ROLE").is_ok() {
        shield().expect("the node closes itself");
        environment_is_clean();
        node_and_guard_are_closed();
        return;
    }
    let name = "executors::sandbox::s16_a_programs_environment_is_clean_and_the_nodes_own_is_closed_to_it";
    let mut node = Command::new(std::env::current_exe().expect("the test"));
    node.args([name, "--exact", "--nocapture"]).env("TIDEGATE_TEST_ROLE", "node").env("PASSED", "on");
    for secret in ["OPENAI_API_KEY", "TIDEGATE_STORE", "LD_LIBRARY_PATH", "HOME_OF_SECRETS"] {
        node.env(secret, CANARY);
    }
    let output = node.output().expect("a node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn environment_is_clean() {
    let env = BTreeMap::from([("SET".to_owned(), "by the task".to_owned())]);
    let pass_env = ["PASSED", "NOT_SET"].map(str::to_owned).to_vec();
    let job = assignment("{}");
    let id = job.run.clone();
    let task = ExecTask { env, pass_env, ..program("/usr/bin/env", &["-0"]) };
    let said = Underway::begin(&exec(task), job, PLENTY).end().succeeded();
    let found: BTreeMap<&str, &str> = said.split_terminator('\0').filter_map(|line| line.split_once('=')).collect();
    let home = found.get("HOME").copied().unwrap_or_default();
    let expected = [
        ("HOME", home),
        ("LANG", "C.UTF-8"),
        ("PASSED", "on"),
        ("PATH", "/usr/bin:/bin"),
        ("SET", "by the task"),
        ("TIDEGATE_ATTEMPT", "3"),
        ("TIDEGATE_RUN_ID", id.as_str()),
        ("TIDEGATE_TASK", "probe"),
        ("TMPDIR", home),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    assert!(!said.contains(CANARY) && home.contains(id.as_str()));
}

/// Neither environment nor memory of the two processes above can be read, and no command line holds a secret.
fn node_and_guard_are_closed() {
    let node = std::process::id();
    let script = format!(
        "for pid in $PPID {node}; do for file in environ mem fd auxv; do \
         head -c 64 /proc/$pid/$file >/dev/null 2>&1 && ls /proc/$pid/$file && echo open $pid $file; done; done; \
         tr '\\0' ' ' < /proc/$PPID/cmdline"
    );
    let said = run(shell(&script), &format!("{{\"secret\":\"{CANARY}\"}}")).succeeded();
    assert_eq!(said.trim_end(), "tidegate exec-guard", "a program reads what is not its own");
}

#[test]
fn s15_no_file_of_the_node_is_open_in_a_program() {
    // One that is meant to be inherited, as whoever starts a node may leave it open: the shell that starts the test.
    let script = "exec 7</etc/passwd; exec \"$@\"";
    let mut node = Command::new("/bin/sh");
    node.args(["-c", script, "sh"]).arg(std::env::current_exe().expect("the test"));
    let name = "executors::sandbox::s15_no_file_of_the_node_is_open_in_a_program";
    if std::env::var("TIDEGATE_TEST_ROLE").is_err() {
        let output = node.args([name, "--exact", "--nocapture"]).env("TIDEGATE_TEST_ROLE", "node").output();
        let output = output.expect("a node");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert!(fs::exists("/proc/self/fd/7").expect("/proc"), "there is nothing to be inherited");
    let folder = tempfile::tempdir().expect("a folder");
    let _database = fs::File::create(folder.path().join("state.sqlite")).expect("a file");
    let _socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let said = run(program("/bin/ls", &["-l", "/proc/self/fd"]), "{}").succeeded();
    let entries = said.lines().filter_map(|line| line.split_once(" -> "));
    // What is listed holds the folder that it lists.
    let own = entries.filter(|(_, target)| !target.starts_with("/proc/"));
    let numbers: BTreeSet<&str> = own.filter_map(|(line, _)| Some(line.rsplit_once(' ')?.1)).collect();
    assert_eq!(numbers, BTreeSet::from(["0", "1", "2"]), "{said}");
}

#[test]
fn s15_limits_hold_and_privileges_cannot_be_gained() {
    let limits = Limits {
        cpu_seconds: Some(70),
        memory_bytes: Some(1 << 30),
        open_files: Some(40),
        processes: Some(5_000),
        file_bytes: Some(1 << 20),
        keep_capabilities: false,
    };
    let task =
        ExecTask { limits, ..program("/bin/cat", &["/proc/self/limits", "/proc/self/status", "/proc/self/stat"]) };
    let said = run(task, "{}").succeeded();
    let words: Vec<Vec<&str>> = said.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    let line = |start: &[&str]| {
        let found =
            words.iter().find(|words| words.starts_with(start)).unwrap_or_else(|| panic!("{start:?} in {said}"));
        found[start.len()..].to_vec()
    };
    assert_eq!(line(&["Max", "cpu", "time"])[..2], ["70", "71"]);
    assert_eq!(line(&["Max", "address", "space"])[..2], ["1073741824", "1073741824"]);
    assert_eq!(line(&["Max", "open", "files"])[..2], ["40", "40"]);
    assert_eq!(line(&["Max", "processes"])[..2], ["5000", "5000"]);
    assert_eq!(line(&["Max", "file", "size"])[..2], ["1048576", "1048576"]);
    assert_eq!(line(&["Max", "core", "file", "size"])[..2], ["0", "0"]);
    assert_eq!(line(&["NoNewPrivs:"]), ["1"]);
    assert_eq!(line(&["CapEff:"]), ["0000000000000000"]);
    assert_eq!(line(&["CapAmb:"]), ["0000000000000000"]);
    // Its own process group and session, without a terminal.
    let stat = words.last().expect("a line");
    assert_eq!((stat[4], stat[5], stat[6]), (stat[0], stat[0], "0"), "{stat:?}");
}

#[test]
fn s15_a_limit_is_never_raised() {
    let limits = Limits { open_files: Some(u64::MAX), ..Limits::default() };
    let hard = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a limit").to_owned();
        line.split_ascii_whitespace().nth(4).and_then(|number| number.parse::<u64>().ok())
    };
    let said = run(ExecTask { limits, ..program("/bin/cat", &["/proc/self/limits"]) }, "{}").succeeded();
    assert_eq!(hard(&said), hard(&fs::read_to_string("/proc/self/limits").expect("our own")));
}

#[test]
fn s15_over_a_limit_a_program_ends_and_says_by_what() {
    for (limits, script, reason) in [
        (
            Limits { file_bytes: Some(1_000), ..Limits::default() },
            "exec head -c 5000 /dev/zero > file",
            "killed by signal 25 (SIGXFSZ, over its file size limit)",
        ),
        (
            Limits { cpu_seconds: Some(1), ..Limits::default() },
            "while :; do :; done",
            "killed by signal 24 (SIGXCPU, over its CPU limit)",
        ),
    ] {
        let outcome = run(ExecTask { limits, ..shell(script) }, "{}").outcome;
        let expected =
            Outcome::Failed { code: "signal".to_owned(), reason: reason.to_owned(), retry: Retry::WithBackoff };
        assert_eq!(outcome, expected);
    }
}

#[test]
fn s15_a_limit_of_the_program_is_none_of_its_guard() {
    let limits = Limits { open_files: Some(4), processes: Some(1), memory_bytes: Some(64 << 20), ..Limits::default() };
    let task = ExecTask { limits, ..program("/bin/cat", &[]) };
    assert_eq!(run(task, "\"still fed and told\"").succeeded(), "\"still fed and told\"");
}
