//! What goes into a program and what comes out of it.

use super::{PLENTY, Underway, assignment, exec, folders_of, program, run, shell, succeeded};
use actors::executor::exec::ExecTask;
use actors::executor::{Outcome, Retry, Stream, StreamEnd};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn failed(code: &str, reason: &str, retry: Retry) -> Outcome {
    Outcome::Failed { code: code.to_owned(), reason: reason.to_owned(), retry }
}

#[test]
fn s003_u1_both_streams_are_captured_and_kept_apart() {
    let ended = run(shell("printf out; printf err >&2; printf ' more'"), "{}");
    assert_eq!((ended.stdout().as_str(), ended.stderr().as_str()), ("out more", "err"));
    for stream in [Stream::Stdout, Stream::Stderr] {
        let own: Vec<_> = ended.chunks.iter().filter(|chunk| chunk.stream == stream).collect();
        assert!(own.iter().enumerate().all(|(index, chunk)| chunk.seq == i64::try_from(index).expect("few")));
        assert_eq!(own.last().and_then(|chunk| chunk.end), Some(StreamEnd { dropped: 0 }), "{own:?}");
        assert_eq!(own.iter().filter(|chunk| chunk.end.is_some()).count(), 1, "{own:?}");
    }
    assert_eq!(ended.outcome, succeeded(0));
}

#[test]
fn s003_u2_exit_codes_are_told_apart_and_0_is_preserved() {
    assert_eq!(run(shell("exit 0"), "{}").outcome, succeeded(0));
    for (code, retry) in [(7, Retry::WithBackoff), (9, Retry::No), (127, Retry::WithBackoff), (255, Retry::WithBackoff)]
    {
        let task = ExecTask { no_retry_codes: vec![9], ..shell(&format!("exit {code}")) };
        assert_eq!(run(task, "{}").outcome, failed("exit_nonzero", &format!("exit code {code}"), retry));
    }
    let task = || ExecTask { success_codes: vec![0, 3], ..shell("exit {payload}") };
    assert_eq!(run(task(), "3").outcome, succeeded(3));
    assert_eq!(run(task(), "0").outcome, succeeded(0));
}

#[test]
fn s003_u2_a_death_by_signal_is_no_exit_code() {
    for (signal, reason) in [
        ("TERM", "killed by signal 15 (SIGTERM)"),
        ("KILL", "killed by signal 9 (SIGKILL)"),
        ("SEGV", "killed by signal 11 (SIGSEGV)"),
        ("PIPE", "killed by signal 13 (SIGPIPE)"),
    ] {
        let ended = run(shell(&format!("printf before; kill -{signal} $$")), "{}");
        assert_eq!(ended.outcome, failed("signal", reason, Retry::WithBackoff));
        assert_eq!(ended.stdout(), "before");
    }
    let outcome = run(shell("exit 143"), "{}").outcome;
    assert_eq!(outcome, failed("exit_nonzero", "exit code 143", Retry::WithBackoff));
}

#[test]
fn a_program_that_cannot_be_started_is_not_one_that_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("program");
    let written = |content: &str| {
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it becomes executable");
    };
    written("#!/bin/sh\n");
    let executor = exec(program(&path.display().to_string(), &[]));
    for content in ["#!/no/such/interpreter\n", "\x7fELF and nothing more", "echo a shell reads this\n", ""] {
        written(content);
        let ended = Underway::begin(&executor, assignment("{}"), PLENTY).end();
        let Outcome::Failed { code, reason, retry } = &ended.outcome else { panic!("{:?}", ended.outcome) };
        assert_eq!((code.as_str(), *retry), ("spawn_failed", Retry::No), "{content}");
        assert!(reason.contains("program") && reason.contains("os error"), "{reason}");
        assert!(ended.stderr().contains(reason.as_str()) && ended.stderr().lines().count() == 1, "{}", ended.stderr());
    }
    for executor in [
        exec(shell("exit 0")).with_binary("/no/such/binary".into()),
        exec(shell("exit 0")).with_scratch("/no/such/folder".into()),
    ] {
        let ended = Underway::begin(&executor, assignment("{}"), PLENTY).end();
        let Outcome::Failed { code, reason, .. } = &ended.outcome else { panic!("{:?}", ended.outcome) };
        assert!(code == "spawn_failed" && reason.contains("No such file"), "{reason}");
    }
}

#[test]
fn s14_values_become_one_argument_each_and_nothing_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let touched = folder.path().join("touched");
    let touch = format!("touch {}", touched.display());
    let values = [
        format!("; {touch}"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("a\n{touch}\n"),
        format!("x' ; {touch} ; '"),
        format!("x\" && {touch} && \""),
        format!("| {touch} #"),
        "-rf".to_owned(),
        "--help".to_owned(),
        "* ~ $HOME ${PATH} \\ \t".to_owned(),
        "{run.id} {payload.v1}".to_owned(),
        "\u{1b}[31m\u{7f}\u{1}".to_owned(),
        "é€😀".to_owned(),
        String::new(),
    ];
    let payload: serde_json::Map<String, serde_json::Value> =
        values.iter().enumerate().map(|(index, value)| (format!("v{index}"), value.as_str().into())).collect();
    let places: Vec<String> = (0..values.len()).map(|index| format!("{{payload.v{index}}}")).collect();
    // A program as such, and a script that takes its arguments as it should.
    let printf = ["%s\\0"].into_iter().chain(places.iter().map(String::as_str)).collect::<Vec<_>>();
    let mut script = shell("printf '%s\\0' \"$@\"");
    script.args.extend(places.clone());
    for task in [program("/usr/bin/printf", &printf), script] {
        let said = run(task, &serde_json::Value::from(payload.clone()).to_string()).succeeded();
        let found: Vec<&str> = said.strip_suffix('\0').expect("an end").split('\0').collect();
        assert_eq!(found, values);
    }
    assert!(!touched.exists(), "something was carried out");
}

#[test]
fn s14_a_payload_that_does_not_fit_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let touched = folder.path().join("touched").display().to_string();
    for payload in ["{}", r#"{"a":{}}"#, r#"{"a":null}"#, r#"{"a":"x\u0000y"}"#, "no json"] {
        let ended = run(program("/usr/bin/touch", &[&touched, "{payload.a}"]), payload);
        let Outcome::Failed { code, retry, .. } = &ended.outcome else { panic!("{:?}", ended.outcome) };
        assert_eq!((code.as_str(), *retry), ("bad_payload", Retry::No), "{payload}");
        assert!(ended.chunks.is_empty());
    }
    assert!(!fs::exists(touched).expect("a path"));
}

#[test]
fn the_payload_is_on_stdin_whether_it_is_read_or_not() {
    let large = format!("\"{}\"", "é".repeat(2 << 20));
    for payload in ["", "{}", "{\"a\": \"\\u00e9\"}\n", large.as_str()] {
        assert_eq!(run(program("/bin/cat", &[]), payload).succeeded(), payload);
        assert_eq!(run(shell("exit 0"), payload).succeeded(), "");
    }
    assert_eq!(run(shell("exec 0<&-; printf closed"), &large).succeeded(), "closed");
}

#[test]
fn row_79_a_mebibyte_without_a_newline_flows_in_bounded_pieces() {
    let ended = run(program("/usr/bin/head", &["-c", "1048576", "/dev/zero"]), "{}");
    assert!(ended.chunks.iter().all(|chunk| chunk.data.len() <= 64 << 10));
    assert_eq!(ended.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>(), 1 << 20);
    assert!(ended.chunks.iter().any(|chunk| chunk.bytes_so_far == 1 << 20));
    assert_eq!(ended.succeeded().len(), 1 << 20);
}

#[test]
fn a_reader_that_waits_makes_the_program_wait() {
    let mut run = Underway::begin(
        &exec(shell("printf begun; head -c 10000000 /dev/zero; printf done >&2")),
        assignment("{}"),
        PLENTY,
    );
    run.said("begun");
    // One chunk is in the channel, one in hand, and the pipe is full: far from ten million bytes.
    let first = run.chunks.blocking_recv().expect("more");
    assert!(first.bytes_so_far < 1 << 20, "{first:?}");
    let ended = run.end();
    assert_eq!((ended.stderr().as_str(), &ended.outcome), ("done", &succeeded(0)));
}

#[test]
fn s003_u9_over_the_limit_the_rest_is_dropped_and_counted() {
    for limit in [4, 100_000, 1 << 20] {
        let task = shell("head -c 1048576 /dev/zero; printf kept >&2");
        let ended = Underway::begin(&exec(task), assignment("{}"), limit).end();
        let (limit, dropped) = (i64::try_from(limit).expect("small"), (1 << 20) - i64::try_from(limit).expect("small"));
        let end = ended.chunks.iter().find(|chunk| chunk.stream == Stream::Stdout && chunk.end.is_some());
        let end = end.expect("an end");
        assert_eq!(end.end, Some(StreamEnd { dropped }), "limit {limit}");
        assert_eq!(end.bytes_so_far, limit);
        assert_eq!(i64::try_from(ended.stdout().len()), Ok(limit));
        assert_eq!(ended.stderr(), "kept", "each stream has its own limit");
        assert_eq!(ended.outcome, succeeded(0), "a program may say too much");
    }
}

#[test]
fn s003_u14_bytes_come_through_as_they_are() {
    let script = r"i=0; while [ $i -lt 256 ]; do printf '\'$(printf %03o $i); i=$((i+1)); done; printf '\r\033[1m'";
    let ended = run(shell(script), "{}");
    let data: Vec<u8> = ended.chunks.iter().flat_map(|chunk| chunk.data.to_vec()).collect();
    let expected: Vec<u8> = (0..=255).chain(*b"\r\x1b[1m").collect();
    assert_eq!(data, expected);
}

#[test]
fn a_program_has_a_private_folder_that_is_gone_afterwards() {
    let script = "pwd; echo $HOME; echo $TMPDIR; stat -c %a .; mkdir -p a/b; touch a/b/c; ln -s / a/root";
    let job = assignment("{}");
    let id = job.run.clone();
    let said = Underway::begin(&exec(shell(script)), job, PLENTY).end().succeeded();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1]), (lines[1], lines[2]), "{said}");
    assert_eq!(lines[3], "700");
    assert!(lines[0].contains(id.as_str()));
    assert_eq!(folders_of(&id), 0);
}

#[test]
fn a_program_starts_where_it_is_told_to_and_that_folder_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let task = ExecTask { cwd: Some(folder.path().to_owned()), ..shell("pwd; touch made; echo $HOME") };
    let said = run(task, "{}").succeeded();
    let (cwd, home) = said.trim_end().split_once('\n').expect("two lines");
    assert_eq!(cwd, folder.path().canonicalize().expect("a folder").display().to_string());
    assert_ne!(cwd, home);
    assert!(folder.path().join("made").exists() && !fs::exists(home).expect("a path"));
}
