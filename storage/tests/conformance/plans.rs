//! The plans of the statements that run all day: by index, never over a whole table, and without statistics,
//! for a table that fills and empties in seconds has none that are true.

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, QUEUE, share};
use storage::model::{Basin, Lane, RunState};
use storage::store::{NewRecord, RunFilter, Taker};

const ROWS: i64 = 20_000;

/// A statement as it stands in the source, which database it is for, and what PostgreSQL is given for its binds.
struct Hot {
    source: &'static str,
    name: &'static str,
    sqlite: bool,
    postgres: Option<&'static str>,
}

const fn both(source: &'static str, name: &'static str, binds: &'static str) -> Hot {
    Hot { source, name, sqlite: true, postgres: Some(binds) }
}

const fn sqlite(source: &'static str, name: &'static str) -> Hot {
    Hot { source, name, sqlite: true, postgres: None }
}

const fn postgres(source: &'static str, name: &'static str, binds: &'static str) -> Hot {
    Hot { source, name, sqlite: false, postgres: Some(binds) }
}

const CAPS: &str = include_str!("../../src/store/caps.rs");
const DISPATCH: &str = include_str!("../../src/store/dispatch.rs");
const BUFFER: &str = include_str!("../../src/store/buffer.rs");
const WAITING: &str = include_str!("../../src/store/waiting.rs");
const OVERDUE: &str = include_str!("../../src/store/overdue.rs");
const FINISH: &str = include_str!("../../src/store/finish.rs");
const RECORDS: &str = include_str!("../../src/store/records.rs");
const QUEUES: &str = include_str!("../../src/store/queues.rs");
const SESSION_SWEEP: &str = include_str!("../../src/store/session_sweep.rs");
const SWEEPS: &str = include_str!("../../src/store/sweeps.rs");
const RETENTION: &str = include_str!("../../src/store/retention.rs");
const DRAW: &str = include_str!("../../src/store/draw.rs");
const ACCEPT: &str = include_str!("../../src/store/accept.rs");
const IMPORT: &str = include_str!("../../src/store/import.rs");
const TRACES: &str = include_str!("../../src/store/traces.rs");
const REPAIR: &str = include_str!("../../src/store/repair.rs");

const HOT: &[Hot] = &[
    both(DISPATCH, "BASINS", "'', '{', 100"),
    both(DISPATCH, "LANES", "'acme/prod', '', 100"),
    sqlite(DISPATCH, "CLAIM_SQLITE"),
    sqlite(DISPATCH, "REMOVE_SQLITE"),
    postgres(DISPATCH, "CLAIM_POSTGRES", "'{acme/prod}', '{mail\u{1f}}', '{10}', 1, 'node', '{0}'"),
    both(CAPS, "COUNT_ENV", "'acme/prod'"),
    both(CAPS, "COUNT_LANES", "'acme/prod', 'mail\u{1f}', 'mail '"),
    both(CAPS, "COUNT_LANE", "'acme/prod', 'mail\u{1f}'"),
    both(BUFFER, "ENVS", "'', 100"),
    both(QUEUES, "WAITING_IN_LANE", "'acme/prod', 'mail\u{1f}', 0, 100"),
    sqlite(BUFFER, "LET_THROUGH_SQLITE"),
    sqlite(BUFFER, "DELETE_LET_THROUGH"),
    postgres(BUFFER, "LET_THROUGH_POSTGRES", "'acme/prod', 100, 0"),
    both(SESSION_SWEEP, "ALIVE", "'ses'"),
    both(SESSION_SWEEP, "OPEN", "'ses', 'run'"),
    both(SESSION_SWEEP, "LAST_END", "'ses'"),
    both(SESSION_SWEEP, "CHILDREN", "'ses', 100"),
    both(SWEEPS, "WALK", "'acme/prod', 'run', 100"),
    sqlite(SWEEPS, "DROP_KEYS_SQLITE"),
    both(REPAIR, "ENVS", "100"),
    both(REPAIR, "WITH_OUTPUT", "'run', 100"),
    both(IMPORT, "QUEUED_NAMES", "'pool', 1, 100"),
    both(IMPORT, "NAMES_OF_BATCH", "'bat', 1, 100"),
    both(TRACES, "OF_BATCH", "'bat', 'acme/prod', 100"),
    both(WAITING, "NEXT_DUE", ""),
    both(WAITING, "DUE", "1, 100"),
    both(WAITING, "EXPIRED_BUFFER", "1, 100"),
    both(WAITING, "EXPIRED_READY", "1, 100"),
    both(WAITING, "FROM_READY", "'run', 'acme/prod'"),
    both(WAITING, "FROM_BUFFER", "'run', 'acme/prod'"),
    both(WAITING, "ASK", "'run', 'acme/prod'"),
    both(WAITING, "ASKED", "'node'"),
    both(OVERDUE, "LAPSED_PULLS", "1, 100"),
    both(RECORDS, "PAST_ATTEMPTS", "'run'"),
    postgres(FINISH, "LEASES_POSTGRES", "'{run}', '{1}'"),
    postgres(FINISH, "SUCCEED_POSTGRES", "'{run}', '{1}', '{NULL}', '{NULL}', 1"),
    postgres(
        FINISH,
        "RECORDS_POSTGRES",
        "'{run}', '{failed}', '{c}', '{r}', '{o}', '{1}', '{1}', '{1}', '{acme/prod}', 1",
    ),
    both(QUEUES, "WAITING_BUFFERED", "'acme/prod', 100"),
    both(QUEUES, "COUNT_IN_JOBS", "'acme/prod', 100"),
    both(QUEUES, "COUNT_DRAWN", "'acme/prod', 100"),
    both(QUEUES, "WAITING_READY", "'acme/prod', 100"),
    sqlite(QUEUES, "WAITING_SLICE"),
    both(ACCEPT, "HELD", "'acme/prod', 'k'"),
    both(DRAW, "TAKE", DRAWABLE),
    both(DRAW, "WAITING", DRAWABLE),
    both(DRAW, "PAYLOADS", DRAWABLE),
];

/// Those by which the retention clears away.
const CLEARING: &[Hot] = &[
    both(RETENTION, "CLOSED", "1, 'ses', 100"),
    both(RETENTION, "ENDED", "1, 'job', 100"),
    both(RETENTION, "BUSY", "'pool', 9"),
    both(RETENTION, "ROUNDS", "'job', 100"),
    both(RETENTION, "DROP_ROUNDS", "'job', 9"),
    both(RETENTION, "RUNS", "'pool', 100"),
    both(RETENTION, "DROP_RUNS", "'pool', 9"),
    both(RETENTION, "BATCH", "'pool'"),
    both(RETENTION, "REQUESTS", "'bat', 100"),
    both(RETENTION, "DROP_REQUESTS", "'bat', 9"),
    both(RETENTION, "REMEMBER", "'bat', 9"),
];

/// Of a scope with everything in its filter.
const DRAWABLE: &str = "'~pull:t', 1, 0, 9, 'mail', 100, '', 0, '', 'ses', 'k', 0, '[\"a\", \"b\"]'";

/// Statements that are put together from values, as SQLite is given them.
const BUILT_SQLITE: &[&str] = &[
    "DELETE FROM sessions WHERE state = 'closed' AND moved_at < ? AND NOT EXISTS (SELECT 1 FROM run_records r
        WHERE r.session_id = sessions.id) AND id IN (?, ?) RETURNING id",
    "SELECT id FROM run_records WHERE env = ? AND id IN (?, ?)",
    "SELECT id FROM runs WHERE pool <> ? AND id IN (?, ?)",
    "DELETE FROM leases WHERE run_id IN (?, ?, ?) AND (run_id, epoch) IN (VALUES (?, ?), (?, ?), (?, ?))",
    "WITH gone (run_id, env, epoch) AS (VALUES (?, ?, ?), (?, ?, ?)) UPDATE run_records SET epoch = gone.epoch FROM gone
        WHERE run_records.env = gone.env AND run_records.id = gone.run_id AND run_records.state = 'open'",
    "UPDATE run_records SET state = v.column2 FROM (VALUES (?, ?, ?), (?, ?, ?), (?, ?, ?)) AS v
        WHERE run_records.env = v.column3 AND run_records.id = v.column1 AND run_records.state = 'open'",
    "WITH wanted (env, id) AS (VALUES (?, ?), (?, ?)) SELECT r.id, r.payload FROM wanted w CROSS JOIN run_records r
        WHERE r.env = w.env AND r.id = w.id",
];

/// How many runs there are in a group must not change how they are looked up.
fn succeed_sqlite(rows: usize) -> String {
    let values = vec!["(?, ?, ?, ?)"; rows].join(", ");
    format!(
        "WITH v AS (VALUES {values}), ended AS MATERIALIZED (SELECT l.run_id, l.env, l.epoch, l.attempts,
        v.column3 AS output, v.column4 AS started_at FROM v CROSS JOIN leases AS l
        WHERE l.run_id = v.column1 AND l.epoch = v.column2 LIMIT {rows})
        UPDATE run_records SET finished_at = ?, state = 'succeeded', output = e.output FROM ended AS e
        WHERE run_records.env = e.env AND id = e.run_id AND state = 'open'"
    )
}

/// Those that may put in order what has come due or has lapsed, which is little, or what is bounded and seldom asked for.
const MAY_SORT: &[&str] = &["COUNT_IN_JOBS", "DUE", "EXPIRED_BUFFER", "EXPIRED_READY", "LAPSED_PULLS"];

/// What the store fills in.
type Fill = [(&'static str, &'static str); 4];
const FILL_SQLITE: Fill = [
    ("{skip_locked}", ""),
    ("{place}", "env, run_id"),
    ("{picked}", "(env, run_id) IN (SELECT env, run_id FROM picked)"),
    ("{tagged}", "TAGGED_SQLITE"),
];
const FILL_POSTGRES: Fill = [
    ("{skip_locked}", " FOR UPDATE SKIP LOCKED"),
    ("{place}", "ctid AS place"),
    ("{picked}", "ctid = ANY(ARRAY(SELECT place FROM picked))"),
    ("{tagged}", "TAGGED_POSTGRES"),
];

/// What SQLite may walk from end to end: what a statement itself has made, and what nodes there are.
const SMALL: &[&str] =
    &["wanted", "tag", "found", "f", "v", "e", "gone", "picked", "nodes", "waiting", "held", "w", "o", "(subquery-2)"];

only_on! { Sqlite:
    async fn hot_statements_of_sqlite_look_into_indexes_only(store: Fixture) {
        filled(&store).await;
        let hot = HOT.iter().chain(CLEARING).filter(|hot| hot.sqlite).map(|hot| (hot.name, hot.sql(FILL_SQLITE)));
        let built = BUILT_SQLITE.iter().map(|sql| (*sql, (*sql).to_owned()));
        let succeed = [1, 2, 32, 500].map(|rows| ("succeed", succeed_sqlite(rows)));
        let pages = pages(&store).into_iter().map(|sql| ("page", sql));
        for (name, sql) in hot.chain(built).chain(succeed).chain(pages) {
            let plan = store.raw.rows(&format!("EXPLAIN QUERY PLAN {sql}")).await;
            let plan: Vec<_> = plan.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
            println!("{name}: {plan:#?}");
            for step in plan {
                let walked = step.strip_prefix("SCAN ").filter(|rest| !rest.contains(" VALUES ") && !rest.contains("CONSTANT"));
                let walked = walked.and_then(|rest| rest.split(' ').next());
                assert!(walked.is_none_or(|table| SMALL.contains(&table)), "{name} walks: {step}");
                assert!(!step.contains("TEMP B-TREE FOR ORDER BY"), "{name} sorts: {step}: {sql}");
            }
        }
    }
}

only_on! { Postgres:
    async fn hot_statements_of_postgres_look_into_indexes_only(store: Fixture) {
        filled(&store).await;
        let analyzed = "SELECT COUNT(*) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid
            WHERE c.relname IN ('ready', 'buffer', 'leases', 'run_records')";
        assert_eq!(store.raw.number(analyzed).await, 0, "there are no statistics");
        look_into_indexes_only(&store, HOT).await;
        let n = format!("FROM generate_series(1, {ROWS}) AS n");
        for rows in [
            format!("INSERT INTO unsuccessful SELECT 'run' || n, 'e', 'failed' {n}"),
            format!("INSERT INTO runs (id, pool, seq, custom_id, pack, state, max_attempts, bytes, accepted_at, env)
                SELECT 'run' || n, 'job', n, '', '', 'queued', 1, 1, 1, 'e' {n}"),
        ] {
            store.raw.exec(&rows).await;
        }
        for page in pages(&store) {
            is_read_in_order(&store, &page).await;
        }
        store.raw.exec("TRUNCATE unsuccessful, runs").await;
    }

    async fn statements_of_postgres_that_clear_away_look_into_indexes_only(store: Fixture) {
        const TABLES: &str = "sessions, jobs, job_rounds, runs, batches, attempts, pools";
        let n = format!("FROM generate_series(1, {ROWS}) AS n");
        for rows in [
            format!("INSERT INTO sessions SELECT 'ses' || n, 'e', 't', '', '', 'closed', 'aborted', 1, 'p', 0, NULL,
                NULL, NULL, 0, 0, 1, 1, 1, 1, n, NULL {n}"),
            format!("INSERT INTO jobs (id, env, pool, source, state, label, input_sha256, scope, ceilings, expected,
                created_at, finished_at, task) SELECT 'job' || n, 'e', 'job' || n, 'daemon', 'cancelled', '', '', '',
                '', 1, n, n, 't' {n}"),
            format!("INSERT INTO job_rounds SELECT 'job' || n / 10000, n, 1, 1, 1, 1, 1, 1 {n}"),
            format!("INSERT INTO pools (name, env) SELECT 'job' || n, 'e' {n}"),
            format!("INSERT INTO runs (id, pool, seq, custom_id, pack, state, max_attempts, bytes, accepted_at,
                finished_at) SELECT 'run' || n, 'job' || n / 10000, n, '', '', 'failed', 1, 1, 1, 1 {n}"),
            format!("INSERT INTO batches (id, env, pool, job_id, source, round, provider, account, pack, state,
                wire_key, manifest, requests, body_bytes, price_version, created_at, finished_at) SELECT 'bat' || n, 'e',
                'job' || n / 10000, 'job', 'daemon', 1, 'p', 'a', '', 'abandoned', n, '', 1, 1, '', 1, n {n}"),
            format!("INSERT INTO attempts (run_id, epoch, state, batch_id, batch_pos, verdict, leased_at, settled_at)
                SELECT 'run' || n, 1, 'failed', 'bat' || n / 10000, n, 'missing', 1, 1 {n}"),
        ] {
            store.raw.exec(&rows).await;
        }
        // Few jobs have much. Nothing here fills and empties in seconds: the database knows how much there is.
        store.raw.exec(&format!("ANALYZE {TABLES}")).await;
        look_into_indexes_only(&store, CLEARING).await;
        store.raw.exec(&format!("TRUNCATE {TABLES}")).await;
    }
}

/// What lists read their pages with: of every state and of each, with nothing more in the filter and with all there is,
/// the first page and a later one.
fn pages(store: &Fixture) -> Vec<String> {
    let text = || Some(String::new());
    let all = RunFilter {
        task: text(),
        queue: text(),
        tag: text(),
        source: text(),
        accepted_after: Some(at(1)),
        accepted_before: Some(at(2)),
        ..RunFilter::default()
    };
    let states = RunState::ALL.iter().copied().map(Some).chain([None]);
    let filters =
        states.flat_map(|state| [RunFilter { state, ..all.clone() }, RunFilter { state, ..RunFilter::default() }]);
    let statements =
        filters.flat_map(|filter| [None, Some("run")].map(|before| store.list_statements(ENV, &filter, before)));
    let page = |statement: String| {
        let (_, page) = statement.split_once("(SELECT r.* FROM ").expect("it reads a page first");
        let (page, _) = page.split_once(") AS r").expect("the page ends");
        format!("SELECT r.* FROM {page}")
    };
    statements.flatten().map(page).collect()
}

/// However long it is, a page is read off an index in its order: what it does not show is not read.
async fn is_read_in_order(store: &Fixture, page: &str) {
    let (all, _) = page.rsplit_once(" LIMIT $").expect("it has a limit");
    let literal = |piece: &str| format!("'1'{}", piece.trim_start_matches(|letter: char| letter.is_ascii_digit()));
    let literal = |(nth, piece)| if nth == 0 { str::to_owned(piece) } else { literal(piece) };
    let sql: String = all.split('$').enumerate().map(literal).collect();
    let plan = store.raw.rows(&format!("EXPLAIN {sql} LIMIT 51")).await;
    let plan: Vec<_> = plan.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
    let plan = plan.join("\n");
    for no in ["Seq Scan", "Sort", "Bitmap", "Hash"] {
        assert!(!plan.contains(no), "{no} in {sql}:\n{plan}");
    }
}

async fn look_into_indexes_only(store: &Fixture, statements: &[Hot]) {
    for mode in ["force_custom_plan", "force_generic_plan"] {
        store.raw.exec(&format!("SET plan_cache_mode = {mode}")).await;
        for hot in statements {
            let Some(binds) = hot.postgres else { continue };
            store.raw.exec(&format!("PREPARE hot AS {}", hot.sql(FILL_POSTGRES))).await;
            let call = if binds.is_empty() { String::new() } else { format!("({binds})") };
            let plan = store.raw.rows(&format!("EXPLAIN EXECUTE hot{call}")).await;
            store.raw.exec("DEALLOCATE hot").await;
            let plan: Vec<_> = plan.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
            let plan = plan.join("\n");
            println!("{mode}, {}:\n{plan}", hot.name);
            assert!(!plan.contains("Seq Scan"), "{} walks over a table, {mode}:\n{plan}", hot.name);
            let sorts = plan.contains("Sort") && !MAY_SORT.contains(&hot.name);
            assert!(!sorts, "{} sorts, {mode}:\n{plan}", hot.name);
            let counts = hot.name.starts_with("COUNT") || hot.name.starts_with("WAITING");
            assert!(counts || !plan.contains("Aggregate"), "{} reads a whole range, {mode}:\n{plan}", hot.name);
        }
    }
}

impl Hot {
    fn sql(&self, fill: Fill) -> String {
        fill.iter().fold(self.text(self.name), |text, (name, with)| match *name {
            "{tagged}" if text.contains(name) => text.replace(name, &self.text(with)),
            _ => text.replace(name, with),
        })
    }

    /// A text as it stands in the source, or several that are put together.
    fn text(&self, name: &str) -> String {
        let after = |head: &str| self.source.split_once(head).unwrap_or_else(|| panic!("{head} is gone")).1;
        let from = after(&format!("const {name}: &str ="));
        let end = if from.trim_start().starts_with("concat!(") { "\n);" } else { "\";" };
        let (pieces, _) = from.split_once(end).expect("it ends");
        let drawable = || after("macro_rules! drawable").split('"').nth(1).expect("it is a text");
        let piece = |(nth, piece)| match nth % 2 {
            1 => piece,
            _ if str::contains(piece, "drawable!()") => drawable(),
            _ => "",
        };
        pieces.split('"').enumerate().map(piece).collect()
    }
}

/// As many rows in each of the tables that are narrow on purpose.
async fn filled(store: &Fixture) {
    let lanes = [Lane::new(QUEUE, ""), Lane::new(QUEUE, "k"), Lane::new("bulk", "")];
    for kind in ["lease", "ready", "buffer"] {
        for part in 0..20 {
            let env = if part % 10 == 0 { ENV.to_owned() } else { format!("org{part}/env") };
            let records = store.records(&env, ROWS / 20).into_iter().enumerate().map(|(nth, record)| NewRecord {
                lane: lanes[nth % 3].clone(),
                basin: Basin::own(&env),
                not_before: (nth % 10 == 9).then(|| at(99)),
                expires_at: (nth % 10 == 8).then(|| at(999_999)),
                buffered: kind == "buffer",
                ..record
            });
            store.take_in(&records.collect::<Vec<_>>()).await;
            if kind == "lease" {
                let shares =
                    lanes.iter().map(|lane| storage::store::Share { lane: lane.clone(), ..share(&env, "", ROWS) });
                let shares: Vec<_> = shares.collect();
                store.claim_ready(&shares, &[], Taker::Node, at(30)).await.expect("they are claimed");
            }
        }
    }
    for (table, least) in [("ready", ROWS), ("buffer", ROWS), ("leases", ROWS / 2)] {
        assert!(store.raw.number(&format!("SELECT COUNT(*) FROM {table}")).await >= least, "{table}");
    }
}
