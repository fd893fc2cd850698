//! Acceptance rows of 000 on the command line: what is written and what is left alone, what was not computed,
//! why a job stopped, and what is in flight.

use actors::config::Settings;
use actors::provider::Provider;
use actors::provider::openai::OpenAi;
use actors::sweeper::{Pass, SweepReport, sweep_once};
use harness::{Case, Database, Ended, Protocol, Verdict};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use storage::model::{BatchState, Clock, IdMint, NodeId, SystemClock};
use storage::store::{BatchFilter, OpenOptions, Store};

const DASH: &str = "—";

fn case(lines: usize) -> Case {
    Case::new(Database::Sqlite, Protocol::OpenAi, lines)
}

/// Another case, with a file of its own, on the store and the account of this one.
fn beside(case: &Case, lines: usize) -> Case {
    let mut other = self::case(lines);
    other.store = case.store.clone();
    other.account = case.account.clone();
    other
}

/// Runs with all lines in one batch up to a place at which that batch is in flight, and kills it there.
fn killed_in_flight(case: &Case, place: &str) {
    let mut command = case.process_with(&["--max-batch-requests", &case.lines.to_string()]);
    command.env("TIDEGATE_FAILPOINT", place);
    let killed = case.finish(command);
    assert!(killed.was_killed(), "{killed:?}");
}

/// The id of the newest job.
fn newest_job(case: &Case) -> String {
    case.look_json(&["jobs", "list"])["data"][0]["id"].as_str().expect("a job").to_owned()
}

/// The fields of the first line of a tab-separated table.
fn cells(ended: &Ended) -> Vec<&str> {
    ended.stdout.lines().next().unwrap_or_default().split('\t').collect()
}

/// The value of one field of a record.
fn field<'a>(ended: &'a Ended, name: &str) -> &'a str {
    let value = ended.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    value.unwrap_or_else(|| panic!("no field `{name}` in {ended:?}"))
}

fn store_path(case: &Case) -> PathBuf {
    PathBuf::from(case.store.strip_prefix("sqlite:").expect("a SQLite store"))
}

/// The rows that a statement finds, past the store, each value as text.
fn rows(case: &Case, sql: &str) -> Vec<Vec<Option<String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let connect = SqliteConnectOptions::new().filename(store_path(case));
        let pool = SqlitePoolOptions::new()
            .max_lifetime(None)
            .idle_timeout(None)
            .max_connections(1)
            .connect_with(connect)
            .await
            .expect("the store's file");
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&pool).await.expect(sql);
        pool.close().await;
        let text =
            |row: &sqlx::sqlite::SqliteRow, at| row.try_get_unchecked::<Option<String>, usize>(at).expect("text");
        rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect()
    })
}

/// Everything that the store holds, by table.
fn snapshot(case: &Case) -> BTreeMap<String, Vec<Vec<Option<String>>>> {
    let tables =
        rows(case, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%sqlx%' ORDER BY name");
    let names = tables.into_iter().filter_map(|row| row.into_iter().next().flatten());
    names.map(|name| (name.clone(), rows(case, &format!("SELECT * FROM {name} ORDER BY 1")))).collect()
}

/// What stands beside the store's own files.
fn names(case: &Case) -> Vec<String> {
    let entries = std::fs::read_dir(case.dir.path()).expect("the folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("state.sqlite")).collect();
    names.sort();
    names
}

#[test]
fn s000_a4_no_temporary_file_is_left_beside_the_results() {
    let clean = ["requests.jsonl", "results.jsonl"];
    let case = self::case(6);
    let ended = case.run();
    assert_eq!((ended.code, names(&case)), (Some(0), clean.map(str::to_owned).to_vec()), "{ended:?}");
    let results = std::fs::read(case.out()).expect("results");

    let bad = std::fs::read_to_string(case.input()).expect("the file") + "no request\n";
    std::fs::write(case.input(), bad).expect("written");
    let refused = case.run();
    assert_eq!((refused.code, names(&case)), (Some(2), clean.map(str::to_owned).to_vec()), "{refused:?}");
    assert_eq!(std::fs::read(case.out()).expect("results"), results, "the earlier results stay");

    let case = self::case(6);
    let killed = case.run_to("out.half");
    assert!(killed.was_killed(), "{killed:?}");
    assert_eq!(names(&case), [".results.jsonl.tidegate-part", "requests.jsonl"], "half results have no name yet");
    let ended = case.run();
    assert_eq!((ended.code, names(&case)), (Some(0), clean.map(str::to_owned).to_vec()), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn s000_a10_not_computed_is_a_dash_and_zero_is_zero() {
    let case = case(6);
    let killed = case.run_to("round.opened");
    assert!(killed.was_killed(), "{killed:?}");
    let job = newest_job(&case);
    let counts = || {
        let round = case.look_json(&["jobs", "get", &job])["round_log"][0].clone();
        let table = case.look(&["jobs", "get", &job]);
        let text = field(&table, "round").split('\t').take(5).collect::<Vec<_>>().join(" ");
        let keys = ["round", "pending_before", "pending_after", "carried", "errored"];
        (keys.map(|key| round[key].clone()).to_vec(), text)
    };
    assert_eq!(
        counts(),
        (vec![json!(1), json!(6), Value::Null, Value::Null, Value::Null], format!("1 6 {DASH} {DASH} {DASH}"))
    );
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(counts(), ([1, 6, 0, 6, 0].map(Value::from).to_vec(), "1 6 0 6 0".to_owned()));
}

/// What each place that shows money says of the cost of a case's job, which has one batch.
fn cost_everywhere(case: &Case, ended: &Ended) -> BTreeMap<&'static str, String> {
    let job = newest_job(case);
    let batch = case.look_json(&["batches", "list"])["data"][0]["id"].as_str().expect("a batch").to_owned();
    let said = ended.stderr.lines().find_map(|line| line.split_once("; spent ")).expect("the last words").1;
    BTreeMap::from([
        ("summary", ended.summary()["spend_usd"].to_string()),
        ("last words", said.to_owned()),
        ("jobs list", cells(&case.look(&["jobs", "list"]))[7].to_owned()),
        ("jobs list json", case.look_json(&["jobs", "list"])["data"][0]["spend_usd"].to_string()),
        ("jobs get", field(&case.look(&["jobs", "get", &job]), "spent").to_owned()),
        ("jobs get json", case.look_json(&["jobs", "get", &job])["spend_usd"].to_string()),
        ("batches list", cells(&case.look(&["batches", "list"]))[5].to_owned()),
        ("batches list json", case.look_json(&["batches", "list"])["data"][0]["spend_usd"].to_string()),
        ("batches get", field(&case.look(&["batches", "get", &batch]), "spent").to_owned()),
        ("batches get json", case.look_json(&["batches", "get", &batch])["spend_usd"].to_string()),
    ])
}

#[test]
fn s000_a11_not_computed_and_zero_never_read_the_same() {
    let unpriced = case(6);
    let text = std::fs::read_to_string(unpriced.input()).expect("the file");
    std::fs::write(unpriced.input(), text.replace("gpt-4o-mini", "a-model-without-a-price")).expect("written");
    let ended = unpriced.run_with(&["--max-batch-requests", "6"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let unknown = cost_everywhere(&unpriced, &ended);

    let unbilled = case(6);
    unbilled.account.faults(&json!({"item_error_always_rate": 1.0}));
    let ended = unbilled.run_with(&["--max-batch-requests", "6", "--max-attempts", "1"]);
    assert_eq!(ended.code, Some(8), "{ended:?}");
    assert_eq!(unbilled.account.ledger().items_billed_total, 0);
    let zero = cost_everywhere(&unbilled, &ended);

    for (place, unknown) in unknown {
        if place == "last words" {
            let is_a_number = unknown.contains(|letter: char| letter == '$' || letter.is_ascii_digit());
            assert_eq!((is_a_number, zero[place].as_str()), (false, "$0.00"), "{unknown}");
            continue;
        }
        let is_json = place == "summary" || place.ends_with("json");
        let expected = if is_json { ("null", "\"0.00\"") } else { (DASH, "0.00") };
        assert_eq!((unknown.as_str(), zero[place].as_str()), expected, "{place}");
    }
}

#[test]
fn s000_r2_r7_without_a_stored_job_a_new_one_is_made() {
    let case = case(6);
    let ended = case.run();
    assert_eq!((ended.code, &ended.summary()["resumed"]), (Some(0), &false.into()), "{ended:?}");
    let jobs = || case.look_json(&["jobs", "list"])["data"].as_array().expect("a list").clone();
    assert_eq!(jobs().len(), 1);
    let first = newest_job(&case);
    let before = case.look_json(&["jobs", "get", &first]);

    let other = beside(&case, 4);
    let ended = other.run();
    assert_eq!((ended.code, &ended.summary()["resumed"]), (Some(0), &false.into()), "{ended:?}");
    let second = ended.summary()["job_id"].clone();
    let ids: Vec<_> = jobs().iter().map(|job| job["id"].clone()).collect();
    assert_eq!(ids, [second, first.clone().into()], "newest first");
    assert_eq!(case.look_json(&["jobs", "get", &first]), before, "the first job is as it was");
}

/// Opens a case's store in this process, with the client of its account, the way a running node has them.
async fn parts(case: &Case) -> actors::Parts {
    let mut ids = IdMint::new(StdRng::seed_from_u64(1));
    let node = NodeId::mint(&mut ids, SystemClock.now());
    let options = OpenOptions { url: case.store.clone(), node, lease: Duration::from_secs(3_600) };
    let store = Store::open(options).await.expect("the store opens");
    let batches = store.list_batches(&BatchFilter::default(), None, 10).await.expect("the batches");
    let client = OpenAi::new(&format!("http://{}/v1", case.account.addr()), &case.account.key).expect("a client");
    let client: Arc<dyn Provider> = Arc::new(client);
    actors::Parts {
        llm: Default::default(),
        runs: None,
        store,
        settings: Arc::new(Settings::default()).into(),
        prices: Arc::new(actors::price::PriceTable::builtin().clone()).into(),
        providers: Arc::new([(batches[0].account.clone(), client)].into()),
        ids: Arc::new(Mutex::new(ids)),
        in_hand: Arc::default(),
        lane: Arc::default(),
        draining: Arc::default(),
        runtime: tokio::runtime::Handle::current(),
    }
}

/// The state of each batch, newest first, and how often it was created.
fn creates(parts: &actors::Parts, runtime: &tokio::runtime::Runtime) -> Vec<(BatchState, i64)> {
    let batches = runtime.block_on(parts.store.list_batches(&BatchFilter::default(), None, 10)).expect("the batches");
    batches.iter().map(|batch| (batch.state, batch.create_no)).collect()
}

fn sweeping(parts: &actors::Parts, runtime: &tokio::runtime::Runtime) {
    // Whoever sweeps for all has a row that says so.
    for role in ["sweep.lapsed_nodes", "sweep.batches"] {
        assert!(runtime.block_on(parts.store.hold_role(role, parts.store.now())).expect("the store").is_some());
    }
}

/// The provider has it, and nobody here knows its id yet: what is listed is the batch itself.
#[test]
fn a_batch_whose_second_create_is_without_a_stored_answer_is_no_duplicate_of_itself() {
    let case = case(6);
    for place in ["create.committed", "create.answered"] {
        killed_in_flight(&case, place);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let parts = runtime.block_on(parts(&case));
    assert_eq!(creates(&parts, &runtime), [(BatchState::Submitting, 2)]);
    assert_eq!(case.account.ledger().batches.len(), 1);
    sweeping(&parts, &runtime);
    let report = runtime.block_on(sweep_once(&parts, None, Pass::Whole)).expect("the sweep goes through");
    assert_eq!(report, SweepReport::default());
    runtime.block_on(parts.store.close());
    drop(parts);
    let ended = case.run_with(&["--max-batch-requests", "6"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean() && verdict.batches == 1, "{verdict:?}");
}

#[test]
fn s000_s3_a_sweep_that_finds_nothing_changes_nothing() {
    let collected = case(6);
    // Created twice, of which the provider took the second: the sweep has to look for a duplicate, and there is none.
    collected.account.faults(&json!({"delayed_accepts": 1, "accept_delay_ms": 3_600_000}));
    let ended = collected.run_with(&["--max-batch-requests", "6"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    collected.account.faults(&json!({"latency_ms": 3_600_000}));
    let submitted = beside(&collected, 4);
    killed_in_flight(&submitted, "create.stored");

    let at_the_provider = || format!("{:?}", submitted.account.ledger());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let parts = runtime.block_on(parts(&submitted));
    assert_eq!(creates(&parts, &runtime), [(BatchState::Submitted, 1), (BatchState::Collected, 2)]);
    sweeping(&parts, &runtime);
    let before = (snapshot(&submitted), at_the_provider());
    assert_eq!(before.0["batches"].len(), 2);
    for pass in ["first", "second"] {
        let report = runtime.block_on(sweep_once(&parts, None, Pass::Whole)).expect("the sweep goes through");
        assert_eq!(report, SweepReport::default(), "{pass}");
        assert_eq!((snapshot(&submitted), at_the_provider()), before, "{pass}");
    }
    runtime.block_on(parts.store.close());
}

#[test]
fn s000_s8_the_input_file_is_never_touched() {
    let case = case(6);
    let plain = std::fs::read_to_string(case.input()).expect("the file");
    let lines: Vec<_> = plain.lines().collect();
    let (first, middle, last) = (lines[0], lines[1..5].join("\r\n"), lines[5]);
    let text = format!("\u{feff}{first}\r\n\r\n{middle}\n \t\n\n{last}");
    std::fs::write(case.input(), &text).expect("written");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = std::fs::File::options().write(true).open(case.input()).expect("the file");
    file.set_modified(long_ago).expect("a time");
    drop(file);
    for args in [vec!["--dry-run"], vec![], vec![], vec!["--restart"]] {
        let ended = case.run_with(&args);
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        assert_eq!(std::fs::read(case.input()).expect("the file"), text.as_bytes(), "{args:?}");
        let modified = case.input().metadata().and_then(|file| file.modified()).expect("a time");
        assert_eq!(modified, long_ago, "{args:?}");
        if args.is_empty() {
            let verdict = Verdict::on(&case);
            assert!(verdict.is_clean(), "one result a line, in order: {verdict:?}");
        }
    }
}

#[test]
fn s000_d9_the_stop_reason_is_printed_as_it_is_stored() {
    let (errors, none) = (json!({"item_error_rate": 1.0}), json!({}));
    for (word, faults, args) in [
        ("max_rounds", &errors, vec!["--max-rounds", "1"]),
        ("degraded", &errors, vec![]),
        ("wallclock", &none, vec!["--max-wallclock", "1ms"]),
        ("spend_cap", &none, vec!["--max-usd", "0.000000001"]),
        ("drained", &none, vec![]),
    ] {
        let case = case(6);
        case.account.faults(faults);
        let ended = case.run_with(&args);
        let clean = word == "drained";
        assert_eq!(ended.code, Some(if clean { 0 } else { 9 }), "{word}: {ended:?}");
        let summary = ended.summary();
        assert_eq!((&summary["stop_reason"], &summary["clean"]), (&word.into(), &clean.into()));
        assert!(ended.stderr.contains(&format!("{word}: ")), "{}", ended.stderr);
        let job = newest_job(&case);
        let stored = case.look_json(&["jobs", "get", &job]);
        assert_eq!((&stored["stop_reason"], &stored["clean"]), (&word.into(), &clean.into()));
        assert_eq!(field(&case.look(&["jobs", "get", &job]), "stop reason"), word);
        assert_eq!(cells(&case.look(&["jobs", "list"]))[2], word);
        assert_eq!(rows(&case, "SELECT reason FROM jobs"), [[Some(word.to_owned())]]);
        let sent: u64 = case.account.ledger().batches.iter().map(|batch| batch.requests).sum();
        assert!(word != "max_rounds" || sent == 6, "one round sends each line once, not {sent} requests");
    }
}

#[test]
fn s000_d10_a_refused_account_suspends_the_job_and_is_no_progress() {
    let case = case(6);
    case.account.faults(&json!({"reject_keys": true}));
    // One attempt a line: had the refusal used one up, no line could succeed afterwards.
    let command = || case.run_with(&["--max-attempts", "1"]);
    let ended = command();
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let job = newest_job(&case);
    assert!(ended.stderr.contains(&format!("{job} is suspended")), "{}", ended.stderr);
    let told = case.look_json(&["jobs", "get", &job]);
    assert_eq!((&told["state"], &told["stop_reason"]), (&"suspended".into(), &Value::Null));
    let items = &told["items"];
    assert_eq!((&items["succeeded"], &items["failed"], &items["pending"]), (&0.into(), &0.into(), &6.into()));
    assert_eq!(told["round_log"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!((&told["round_log"][0]["ended_at"], &told["round_log"][0]["carried"]), (&Value::Null, &Value::Null));
    let settled = "SELECT count(*) FROM attempts WHERE settled_at IS NOT NULL";
    assert_eq!(rows(&case, settled), [[Some("0".to_owned())]], "no attempt came to an end");
    assert!(case.account.ledger().batches.is_empty());

    case.account.faults(&json!({}));
    let ended = command();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let summary = ended.summary();
    assert_eq!((&summary["job_id"], &summary["stop_reason"]), (&job.into(), &"drained".into()));
    let verdict = Verdict::on(&case);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn s000_i1_nothing_in_flight_is_an_empty_list() {
    let case = case(6);
    let empty = json!({"data": [], "has_more": false, "next_after": null});
    assert_eq!(case.look_json(&["batches", "list"]), empty, "a fresh store");
    for form in ["table", "jsonl"] {
        let ended = case.look(&["batches", "list", "-o", form]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{form}");
    }
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(case.look_json(&["batches", "list", "--state", "submitted"]), empty, "a finished job");
    let collected = case.look_json(&["batches", "list", "--state", "collected"]);
    assert_eq!(collected["data"].as_array().map(Vec::len), Some(3));
}

#[test]
fn s000_i3_a_batch_in_flight_shows_counts_times_and_its_next_look() {
    let case = case(6);
    case.account.faults(&json!({"latency_ms": 3_600_000}));
    killed_in_flight(&case, "create.stored");
    let listed = case.look_json(&["batches", "list", "--state", "submitted"]);
    let id = listed["data"][0]["id"].as_str().expect("a batch in flight").to_owned();
    assert_eq!(listed["data"][0]["next_look_at"], Value::Null, "never asked about: the next look is at once");
    killed_in_flight(&case, "poll.answered:2");

    let batch = case.look_json(&["batches", "get", &id]);
    let counts = json!({"total": 6, "succeeded": 0, "errored": 0, "uncounted": 0, "open": 6});
    assert_eq!((&batch["state"], &batch["requests"]), (&"submitted".into(), &counts));
    let time = |key: &str| batch[key].as_str().unwrap_or_else(|| panic!("no {key} in {batch}"));
    // RFC 3339 in UTC with milliseconds sorts as text.
    let times = ["created_at", "intent_at", "submitted_at", "next_look_at"].map(time);
    assert!(times.is_sorted(), "{times:?}");
    for key in ["spend_usd", "ended_at", "finished_at"] {
        assert_eq!(batch[key], Value::Null, "{key}");
    }
    let at_the_provider = &case.account.ledger().batches[0].id;
    assert_eq!(batch["provider_batch_id"], at_the_provider.as_str());
    let table = case.look(&["batches", "get", &id]);
    let shown = ["requests", "open", "succeeded", "errored", "spent", "next look"].map(|name| field(&table, name));
    assert_eq!(shown, ["6", "6", "0", "0", DASH, time("next_look_at")]);
}
