//! Bad commands, and bad places to run good ones in (catalogue rows 159, 161–167).

use crate::bad_input::unhurried;
use harness::case::binary;
use harness::machine::is_root;
use harness::{Case, Database, Ended, Protocol, Verdict};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

fn case() -> Case {
    unhurried(Database::Sqlite, Protocol::OpenAi, 3)
}

fn with(case: &Case, args: &[&str]) -> Command {
    let mut command = case.tidegate();
    command.args(args);
    command
}

/// Nothing is stored, nothing is sent, and the same folder still carries the case's own job out.
#[track_caller]
fn unharmed(case: &Case) {
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.uploads), (0, 0));
    assert_eq!(case.files(), [case.input()], "nothing is left behind");
    finishes(case, case.run());
}

#[track_caller]
fn finishes(case: &Case, ended: Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(case);
    assert!(verdict.is_clean(), "{verdict:?}");
    case.keeps_the_key(&ended);
}

#[test]
fn row_162_a_wrong_command_line_is_answered_with_its_usage() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let case = case();
    let cases: [(&[&str], &[&str]); 10] = [
        (&[], &["requires a subcommand", "Usage: tidegate"]),
        (&["jobz"], &["unrecognized subcommand 'jobz'", "'jobs'", "Usage: tidegate"]),
        (&["jobs"], &["Usage: tidegate jobs"]),
        (&["jobs", "lits"], &["unrecognized subcommand 'lits'", "'list'", "Usage: tidegate jobs"]),
        (&["process"], &["<FILE>", "Usage: tidegate process"]),
        (&["process", "requests.jsonl"], &["--out <FILE>", "Usage: tidegate process"]),
        (&["process", "a", "b", "--out", "c"], &["unexpected argument 'b'", "Usage: tidegate process"]),
        (&["process", "a", "--out", "c", "--max-round", "3"], &["'--max-rounds'", "Usage: tidegate process"]),
        (&["process", "a", "--out", "c", "--poll", "1s", "--poll", "2s"], &["cannot be used multiple times", "Usage:"]),
        (&["jobs", "list", "--store", "sqlite:a", "--store", "sqlite:b"], &["cannot be used multiple times", "Usage:"]),
    ];
    for (args, words) in cases {
        case.refuses(|| with(&case, args), 2, words);
    }
    let not_text = || {
        let mut command = with(&case, &["jobs", "list", "--limit"]);
        command.arg(OsStr::from_bytes(b"\xff"));
        command
    };
    case.refuses(not_text, 2, &["invalid UTF-8", "Usage: tidegate jobs list"]);
    unharmed(&case);
}

#[test]
fn row_158_a_file_name_that_is_no_text_is_a_name_like_any_other() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let case = case();
    let odd = |name: &[u8]| case.dir.path().join(OsStr::from_bytes(name));
    std::fs::rename(case.input(), odd(b"in-\xff.jsonl")).expect("renamed");
    let mut command = case.tidegate();
    command.arg("process").arg(odd(b"in-\xff.jsonl")).arg("--out").arg(odd(b"out-\xff.jsonl")).args(&case.args);
    let ended = case.finish(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(std::fs::read_to_string(odd(b"out-\xff.jsonl")).expect("results").lines().count(), 3);
    case.keeps_the_key(&ended);
}

#[test]
fn row_161_a_value_out_of_range_is_refused_with_its_rule() {
    let case = case();
    let cases: [(&[&str], &str); 19] = [
        (&["--max-usd=-1"], "`-1` is not an amount in dollars"),
        (&["--max-usd", "-1"], "unexpected argument '-1'"),
        (&["--max-usd", "NaN"], "`NaN` is not an amount in dollars"),
        (&["--max-usd", "inf"], "`inf` is not an amount in dollars"),
        (&["--max-usd", "1e3"], "`1e3` is not an amount in dollars"),
        (&["--max-usd", "1,50"], "`1,50` is not an amount in dollars"),
        (&["--max-usd", "99999999999"], "`99999999999` is not an amount in dollars"),
        (&["--max-usd", ""], "'--max-usd <N>'"),
        (&["--max-wallclock", "soon"], "`soon` is not a time; use for example 30s, 90m or 36h"),
        (&["--max-wallclock", "0s"], "`0s` is not a time between 1ms and 365d"),
        (&["--max-wallclock", "NaN"], "`NaN` is not a time"),
        (&["--max-wallclock", "1e9d"], "is not a time"),
        (&["--max-wallclock", "9999999999999999999999d"], "is not a time between 1ms and 365d"),
        (&["--max-rounds", "0"], "0 is not in 1..=10000"),
        (&["--max-attempts", "101"], "101 is not in 1..=100"),
        (&["--max-batch-requests", "0"], "0 is not in 1..=100000"),
        (&["--max-batch-requests", "4294967297"], "4294967297 is not in 1..=100000"),
        (&["--source", "cron"], "`cron` is no source; use backfill or daemon"),
        (&["-o", "yaml"], "[possible values: table, json, jsonl]"),
    ];
    for (args, words) in cases {
        case.refuses(|| case.process_with(args), 2, &[words, "try '--help'"]);
    }
    unharmed(&case);
}

#[test]
fn a_provider_that_cannot_be_meant_is_refused() {
    let mut case = case();
    case.refuses(|| case.process_with(&["--provider", "opnai"]), 2, &["no provider `opnai`", "hint: use openai"]);
    case.refuses(|| case.process_with(&["--provider", ""]), 2, &["no provider ``"]);
    let other = ["in openai form, which the provider `anthropic` does not take", "hint: "];
    case.refuses(|| case.process_with(&["--provider", "anthropic"]), 2, &other);
    unharmed(&case);
    case.env.push(("OPENAI_API_KEY".to_owned(), String::new()));
    let no_key = ["no key for the provider openai", "hint: set OPENAI_API_KEY, or api_key_file"];
    case.refuses(|| case.process_with(&["--provider", "openai", "--restart"]), 4, &no_key);
    assert_eq!(case.account.ledger().creates, 3, "of the good run");
}

#[test]
fn a_ceiling_needs_a_known_price_and_a_bound_for_every_line() {
    let case = case();
    let good = std::fs::read_to_string(case.input()).expect("the file");
    let capped = || case.process_with(&["--max-usd", "5"]);
    std::fs::write(case.input(), good.replacen("gpt-4o-mini", "mystery-1", 2)).expect("written");
    case.refuses(capped, 2, &["--max-usd needs known prices: 2 lines use `mystery-1`", "hint: "]);
    let image = r#""tools":[{"type":"web_search"}],"seed""#;
    std::fs::write(case.input(), good.replacen("\"seed\"", image, 1)).expect("written");
    case.refuses(capped, 2, &["--max-usd needs a bound for every line: 1 lines have none, first line 1", "hint: "]);
    std::fs::write(case.input(), good).expect("written");
    unharmed(&case);
}

#[test]
fn invariant_21_a_dry_run_writes_and_sends_nothing() {
    for database in [Database::Sqlite, Database::Postgres] {
        let case = unhurried(database, Protocol::OpenAi, 3);
        let plan = case.run_with(&["--dry-run"]);
        assert_eq!(plan.code, Some(0), "{plan:?}");
        let plan = plan.summary();
        assert_eq!((&plan["items"], &plan["batches"]), (&3.into(), &3.into()));
        let usd = |name: &str| plan[name].as_str().and_then(|usd| usd.parse::<f64>().ok()).unwrap_or_default();
        assert!(usd("low_usd") > 0.0 && usd("low_usd") < usd("worst_usd"), "{plan}");
        let table = case.finish(case.process_with(&["--dry-run", "-o", "table"]));
        for words in ["items ", "batches ", "low ", "worst ", "prices ", plan["worst_usd"].as_str().unwrap_or("?")] {
            assert!(table.stdout.contains(words), "{words}: {table:?}");
        }
        case.keeps_the_key(&table);
        assert_eq!(case.files(), [case.input()], "nothing is written");
        // Nor does it need a store that could be opened.
        let nowhere = case.finish(case.process_with(&["--dry-run", "--store", "postgres://me:x@127.0.0.1:1/db"]));
        assert_eq!(nowhere.code, Some(0), "{nowhere:?}");
        unharmed(&case);
    }
}

#[test]
fn row_159_a_port_that_cannot_be_had_is_named_with_its_cause() {
    let case = case();
    for flag in [["process", "requests.jsonl", "--out", "x", "--ops-listen"].as_slice(), &["sim", "--listen"]] {
        for bad in ["127.0.0.1:65536", "127.0.0.1", ":7070", "localhost:7070", ""] {
            let value = format!("for '{} <ADDR>'", flag[flag.len() - 1]);
            let words = if bad.is_empty() { flag[flag.len() - 1] } else { value.as_str() };
            case.refuses(|| with(&case, &[flag, &[bad]].concat()), 2, &[words]);
        }
    }
    assert_eq!(case.files(), [case.input()]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("its address").to_string();
    case.refuses(|| with(&case, &["sim", "--listen", &addr]), 5, &[&addr, "in use", "hint: name another address"]);
    let busy = case.run_with(&["--ops-listen", &addr]);
    assert!(busy.code.is_some_and(|code| [1, 5].contains(&code)), "{busy:?}");
    assert!(busy.stderr.contains(&format!("--ops-listen {addr}: cannot listen")), "{busy:?}");
    assert!(busy.stderr.contains("in use"), "{busy:?}");
    assert_eq!(case.account.ledger().creates, 0);
    assert!(!case.dir.path().join("state.sqlite").exists(), "it is noticed before a store is made");
    let any = case.run_with(&["--ops-listen", "127.0.0.1:0"]);
    assert!(any.stderr.contains("ops on http://127.0.0.1:") && !any.stderr.contains("127.0.0.1:0/"), "{any:?}");
    finishes(&case, any);
}

#[test]
fn row_162_help_and_version_go_to_stdout() {
    let case = case();
    let cases: [(&[&str], &str); 5] = [
        (&["--version"], "tidegate "),
        (&["--help"], "Usage: tidegate"),
        (&["help", "process"], "--max-usd"),
        (&["process", "--help"], "run it again to continue"),
        (&["jobs", "list", "-h"], "Usage: tidegate jobs list"),
    ];
    for (args, words) in cases {
        let ended = case.finish(with(&case, args));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        assert!(ended.stdout.contains(words), "{ended:?}");
        assert!(!ended.stdout.contains(&case.store), "a store's URL may hold a password: {ended:?}");
        case.keeps_the_key(&ended);
    }
    assert_eq!(case.files(), [case.input()]);
}

/// The writing end of a pipe that nobody reads from any more.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn row_163_closed_streams_do_not_stop_a_job() {
    for script in ["exec \"$@\" <&-", "exec \"$@\" >&-", "exec \"$@\" 2>&-", "exec \"$@\" <&- >&- 2>&-"] {
        let case = case();
        let ended = case.finish(case.in_shell(script, &case.process()));
        assert_eq!(ended.code, Some(0), "{script}: {ended:?}");
        finishes(&case, ended);
    }
}

#[test]
fn row_163_a_reader_that_went_away_ends_a_command_quietly() {
    let case = case();
    finishes(&case, case.run());
    let commands: [&[&str]; 7] = [
        &["--version"],
        &["--help"],
        &["batches", "list"],
        &["jobs", "list", "-o", "json"],
        &["sim", "--list-faults"],
        &["process", "requests.jsonl", "--out", "x", "--dry-run"],
        &["doctor"],
    ];
    for args in commands {
        let mut command = with(&case, args);
        command.stdout(broken_pipe()).stderr(Stdio::piped());
        let ended: Ended = command.spawn().and_then(|child| child.wait_with_output()).expect("it runs").into();
        assert_eq!((ended.code, ended.signal), (Some(0), None), "{args:?}: {ended:?}");
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("roken pipe"), "{args:?}: {ended:?}");
    }
    let mut again = case.process();
    again.arg("--restart").stdout(broken_pipe()).stderr(Stdio::null());
    assert_eq!(again.status().expect("it runs").code(), Some(0), "the summary is lost, the results are not");
}

#[test]
fn row_163_a_reader_of_stderr_that_went_away_does_not_stop_a_job() {
    let case = case();
    let mut command = case.process();
    command.stderr(broken_pipe()).stdout(Stdio::piped());
    let ended: Ended = command.spawn().and_then(|child| child.wait_with_output()).expect("it runs").into();
    finishes(&case, ended);
}

/// The command as a user who may not write everywhere; root may.
fn as_nobody(case: &Case, inner: &Command) -> Option<Command> {
    if !is_root() {
        return Some(case.in_shell("exec \"$@\"", inner));
    }
    let nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$@\"";
    let mut probe = case.in_shell(nobody, Command::new(binary()).arg("--version"));
    let may = probe.output().is_ok_and(|output| output.status.success());
    if !may {
        println!("skipped: root may write everywhere, and nobody may not run {}", binary().display());
    }
    may.then(|| case.in_shell(nobody, inner))
}

#[test]
fn row_164_a_place_that_may_not_be_written_to_is_named() {
    let case = case();
    let chmod = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    };
    let (locked, open) = (case.dir.path().join("locked"), case.dir.path().join("open"));
    for (folder, mode) in [(&locked, 0o555), (&open, 0o777)] {
        std::fs::create_dir(folder).expect("a folder");
        chmod(folder, mode);
    }
    chmod(case.dir.path(), 0o755);
    let run = |store: &std::path::Path, out: &std::path::Path| {
        let mut command = case.tidegate();
        command.env("TIDEGATE_STORE", format!("sqlite:{}", store.join("s.sqlite").display()));
        command.arg("process").arg(case.input()).arg("--out").arg(out.join("r.jsonl")).args(&case.args);
        command
    };
    if as_nobody(&case, &run(&open, &open)).is_none() {
        return;
    }
    let nobody = |inner: Command| as_nobody(&case, &inner).expect("it could be started before");
    let out = ["--out ", "locked/r.jsonl: cannot write beside it: Permission denied"];
    case.refuses(|| nobody(run(&open, &locked)), 2, &out);
    let store = ["cannot open", "locked/s.sqlite.lock: Permission denied", "hint: name another place with --store"];
    case.refuses(|| nobody(run(&locked, &open)), 74, &store);
    case.refuses(
        || nobody(run(&locked.join("below"), &open)),
        74,
        &["cannot create", "locked/below: Permission denied"],
    );
    chmod(&case.input(), 0o600);
    let own = std::fs::metadata("/proc/self").expect("this process");
    if std::os::unix::fs::MetadataExt::uid(&own) == 0 {
        let unreadable = ["cannot read", "requests.jsonl: Permission denied"];
        case.refuses(|| nobody(run(&open, &open)), 2, &unreadable);
    }
    chmod(&case.input(), 0o644);
    assert_eq!(case.files(), [case.input()], "nothing is left behind");
    let ended = case.finish(nobody(run(&open, &open)));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(case.account.ledger().creates, 3);
}

#[test]
fn results_that_could_not_be_written_are_refused_before_anything_is_bought() {
    let case = case();
    std::fs::create_dir(case.dir.path().join("folder")).expect("a folder");
    std::os::unix::fs::symlink(case.input(), case.dir.path().join("link")).expect("a link");
    let cases = [
        ("none/results.jsonl", "its directory does not exist"),
        ("requests.jsonl/results.jsonl", "its directory does not exist"),
        ("folder", "it is a directory"),
        (".", "it names no file"),
        ("..", "it names no file"),
        ("/", "it names no file"),
        ("requests.jsonl", "it is the input file"),
        ("folder/../requests.jsonl", "it is the input file"),
        ("link", "it is the input file"),
    ];
    for (out, why) in cases {
        let mut args = vec!["process", "requests.jsonl", "--out", out];
        args.extend(case.args.iter().map(String::as_str));
        case.refuses(|| with(&case, &args), 2, &[&format!("error: --out {out}: {why}")]);
    }
    std::fs::remove_file(case.dir.path().join("link")).expect("removed");
    unharmed(&case);
}

#[test]
fn row_165_64_open_files_are_enough() {
    for (database, protocol) in [(Database::Sqlite, Protocol::Anthropic), (Database::Postgres, Protocol::OpenAi)] {
        let mut case = unhurried(database, protocol, 30);
        case.args.extend(["--max-rounds".to_owned(), "9".to_owned()]);
        finishes(&case, case.finish(case.in_shell("ulimit -n 64 && exec \"$@\"", &case.process())));
    }
}

/// The case's job under a limit of processes. It binds nobody who is root, and counts all that its user has.
fn limited(case: &Case, processes: u32) -> Command {
    let limit = format!("prlimit --nproc={processes} --");
    if !is_root() {
        return case.in_shell(&format!("exec {limit} \"$@\""), &case.process());
    }
    let own = case.dir.path().join("tidegate");
    std::fs::copy(binary(), &own).expect("the binary can be copied");
    let job = case.process();
    let mut inner = Command::new(own);
    inner.args(job.get_args()).envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
    for path in case.files().iter().map(PathBuf::as_path).chain([case.dir.path()]) {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    }
    let become_nobody = format!("exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --");
    case.in_shell(&format!("{become_nobody} {limit} \"$@\""), &inner)
}

#[test]
fn row_165_without_threads_it_says_so_and_with_a_few_it_works() {
    let case = case();
    let ended = case.finish(limited(&case, 4));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cannot start 16 threads") && ended.stderr.contains("ulimit -u"), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    assert!(!case.dir.path().join("state.sqlite").exists(), "something was stored");
    finishes(&case, case.finish(limited(&case, if is_root() { 32 } else { 4_096 })));
}

#[test]
fn row_166_a_clock_before_2020_is_warned_of_and_the_job_is_still_right() {
    let case = case();
    let mut command = case.process();
    command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", "@2019-06-01 12:00:00").env("DONT_FAKE_MONOTONIC", "1");
    let ended = case.finish(command);
    assert!(ended.stderr.contains("this machine's clock says 2019-06-01"), "{ended:?}");
    finishes(&case, ended);
}

/// The library that gives a process another wall clock.
pub fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder").flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).filter(|path| path.is_file());
    found.next().expect("these tests need the Debian package `libfaketime`")
}

#[test]
fn row_167_a_text_file_is_not_taken_for_a_store() {
    let case = case();
    let store = case.dir.path().join("state.sqlite");
    for content in ["my notes, which nobody wants to lose\n".repeat(300), "{}".to_owned()] {
        std::fs::write(&store, &content).expect("written");
        let said = case.refuses(|| case.process(), 74, &["error: the store", "file is not a database"]);
        assert!(!said.stderr.contains("my notes"), "{said:?}");
        assert_eq!(std::fs::read_to_string(&store).expect("the file"), content, "not overwritten");
    }
    case.refuses(|| with(&case, &["jobs", "list", "--store", "sqlite:/"]), 74, &["error: "]);
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.uploads), (0, 0));
    std::fs::remove_file(&store).expect("removed");
    finishes(&case, case.run());
}

/// Runs one statement on a SQLite file that nobody has open.
fn on_sqlite(path: &std::path::Path, sql: &'static str) {
    use sqlx::ConnectOptions;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.expect("a store");
        sqlx::raw_sql(sql).execute(&mut connection).await.expect("a statement");
        sqlx::Connection::close(connection).await.expect("closed");
    });
}

#[test]
fn row_167_a_schema_that_needs_a_newer_binary_is_refused_without_a_write() {
    let case = case();
    let store = case.dir.path().join("state.sqlite");
    finishes(&case, case.run());
    on_sqlite(
        &store,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of a later day', TRUE, x'00', 1)",
    );
    finishes(&case, case.run());
    on_sqlite(&store, "UPDATE compatibility SET least_level = 99");
    let before = std::fs::read(&store).expect("the store");
    for args in [&["jobs", "list"][..], &["batches", "list"], &["process", "requests.jsonl", "--out", "x"]] {
        case.refuses(
            || with(&case, args),
            2,
            &["the store needs a newer tidegate (level 99;", "hint: use the version"],
        );
    }
    assert!(std::fs::read(&store).expect("the store") == before, "the store was written to");
    assert_eq!(case.account.ledger().creates, 3, "nothing is bought again");
    on_sqlite(&store, "UPDATE compatibility SET least_level = 1");
    finishes(&case, case.run());
}
