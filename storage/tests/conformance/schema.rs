//! The schema: the same in both databases, and closed to half-states even for who writes past the store.

use crate::fixture::{Fixture, at};
use crate::raw::{Raw, Row, TABLES};
use crate::sent::{ENV, QUEUE, TRIES, keyed};
use std::collections::BTreeSet;
use storage::model::{AttemptState, BatchState, JobState, NodeState, RequestState, RunState, Source, StopReason};
use storage::store::{Ending, NewChunk, NewRecord};

/// Statements that would leave a row in a state that is none. Each must be refused, by either database.
const HALF_STATES: &[&str] = &[
    "UPDATE nodes SET state = 'resting'",
    "UPDATE nodes SET state = NULL",
    "UPDATE pools SET queued = -1, total = running + succeeded + failed - 1",
    "UPDATE pools SET running = -1, total = queued + succeeded + failed - 1",
    "UPDATE pools SET total = total + 1",
    "UPDATE pools SET queued = queued + 1",
    "UPDATE pools SET reserved_nanos = -1",
    "UPDATE jobs SET state = 'paused'",
    "UPDATE jobs SET source = 'cron'",
    "UPDATE jobs SET state = 'finishing', reason = 'boredom'",
    "UPDATE jobs SET state = 'finishing'",
    "UPDATE jobs SET state = 'finished', finished_at = 1",
    "UPDATE jobs SET state = 'finished', reason = 'drained'",
    "UPDATE jobs SET state = 'cancelled'",
    "UPDATE jobs SET state = 'failed'",
    "UPDATE jobs SET finished_at = 1",
    "UPDATE jobs SET reason = 'drained'",
    "UPDATE job_rounds SET ended_at = 1",
    "UPDATE job_rounds SET carried = 1",
    "UPDATE runs SET state = 'lost'",
    "UPDATE runs SET state = 'running' WHERE state = 'queued'",
    "UPDATE runs SET carrier = 'bat_x' WHERE state = 'queued'",
    "UPDATE runs SET state = 'queued' WHERE state = 'running'",
    "UPDATE runs SET carrier = NULL WHERE state = 'running'",
    "UPDATE runs SET state = 'succeeded' WHERE state = 'queued'",
    "UPDATE runs SET state = 'failed', carrier = NULL WHERE state = 'running'",
    "UPDATE runs SET state = 'cancelled' WHERE state = 'queued'",
    "UPDATE runs SET state = 'timed_out', carrier = NULL WHERE state = 'running'",
    "UPDATE runs SET state = 'expired' WHERE state = 'queued'",
    "UPDATE runs SET finished_at = 1",
    "UPDATE runs SET attempts = max_attempts + 1",
    "UPDATE runs SET attempts = -1",
    "UPDATE batches SET state = 'lost'",
    "UPDATE batches SET source = 'cron'",
    "UPDATE batches SET state = 'submitting'",
    "UPDATE batches SET state = 'unknown'",
    "UPDATE batches SET state = 'submitted', intent_at = 1",
    "UPDATE batches SET state = 'cancelling', intent_at = 1",
    "UPDATE batches SET state = 'ended', intent_at = 1",
    "UPDATE batches SET state = 'collected', intent_at = 1, finished_at = 1",
    "UPDATE batches SET state = 'collected', provider_batch_id = 'p'",
    "UPDATE batches SET state = 'abandoned'",
    "UPDATE batches SET finished_at = 1",
    "UPDATE batches SET requests = 0",
    "UPDATE attempts SET state = 'sleeping'",
    "UPDATE attempts SET verdict = 'maybe'",
    "UPDATE attempts SET verdict = NULL",
    "UPDATE attempts SET batch_id = NULL",
    "UPDATE attempts SET settled_at = 1",
    "UPDATE attempts SET state = 'succeeded', verdict = 'succeeded'",
    "UPDATE attempts SET state = 'lost', verdict = 'missing'",
    "UPDATE strays SET state = 'lost'",
];

/// The same for the tables of runs that were sent in.
const HALF_STATES_OF_SENT: &[&str] = &[
    "UPDATE run_records SET state = 'running' WHERE state = 'open'",
    "UPDATE run_records SET state = 'succeeded' WHERE state = 'open'",
    "UPDATE run_records SET state = 'open' WHERE state = 'failed'",
    "UPDATE run_records SET finished_at = 1 WHERE state = 'open'",
    "UPDATE run_records SET finished_at = NULL WHERE state = 'failed'",
    "UPDATE run_records SET source = 'cron'",
    "UPDATE run_records SET max_attempts = 0",
    "UPDATE run_records SET payload = NULL",
    "UPDATE unsuccessful SET state = 'succeeded'",
    "UPDATE unsuccessful SET state = 'open'",
    "UPDATE buffer SET rank = NULL",
    "UPDATE ready SET due_at = NULL",
    "UPDATE ready SET basin = NULL",
    "UPDATE leases SET attempts = 0",
    "UPDATE leases SET attempts = max_attempts + 1",
    "UPDATE leases SET holder = NULL",
    "UPDATE leases SET token = 'half a pull lease' WHERE token IS NULL",
    "UPDATE leases SET lease_until = 1 WHERE token IS NULL",
    "UPDATE leases SET token = NULL WHERE token IS NOT NULL",
    "UPDATE leases SET lease_until = NULL WHERE token IS NOT NULL",
    "UPDATE attempts SET settled_at = NULL",
    "UPDATE attempts SET verdict = 'open'",
    "UPDATE output_chunks SET stream = 'stdin'",
    "UPDATE output_ends SET stream = 'stdin'",
];

/// Statements that would make two of what there is one of.
const TWICE: &[&str] = &[
    "INSERT INTO runs (id, pool, seq, custom_id, pack, state, epoch, attempts, max_attempts, due_round, bytes,
        reserve_nanos, carrier, code, accepted_at, finished_at)
        SELECT 'run_twin', pool, seq, custom_id, pack, state, epoch, attempts, max_attempts, due_round,
        bytes, reserve_nanos, carrier, code, accepted_at, finished_at FROM runs WHERE seq = 0",
    "INSERT INTO attempts (run_id, epoch, state, leased_at) SELECT run_id, epoch + 1, 'leased', 1 FROM attempts",
    "INSERT INTO attempts (run_id, epoch, state, batch_id, batch_pos, verdict, leased_at)
        SELECT 'run_twin', 1, 'leased', batch_id, batch_pos, 'open', 1 FROM attempts WHERE batch_pos = 0",
    "INSERT INTO attempts (run_id, epoch, state, leased_at, settled_at)
        SELECT run_id, epoch, 'declined', 1, 1 FROM attempts",
    "INSERT INTO jobs (id, env, pool, source, state, label, input_sha256, scope, ceilings, expected, created_at)
        SELECT 'job_twin', env, pool, source, 'suspended', label, input_sha256, scope, ceilings, 1, 1 FROM jobs",
    "INSERT INTO job_rounds (job_id, round, pending_before, started_at) SELECT job_id, round, 1, 1 FROM job_rounds",
    "INSERT INTO run_results (run_id, epoch, line) VALUES ('run_x', 1, ''), ('run_x', 2, '')",
    "INSERT INTO pools (name, env) SELECT name, 'elsewhere' FROM pools",
];

/// The same for the tables of runs that were sent in.
const TWICE_SENT: &[&str] = &[
    "INSERT INTO run_records SELECT * FROM run_records",
    "INSERT INTO buffer SELECT * FROM buffer",
    "INSERT INTO ready SELECT * FROM ready",
    "INSERT INTO leases SELECT * FROM leases",
    "INSERT INTO unsuccessful SELECT * FROM unsuccessful",
    "INSERT INTO attempts SELECT * FROM attempts",
    "INSERT INTO idempotency SELECT * FROM idempotency",
    "INSERT INTO caps SELECT * FROM caps",
    "INSERT INTO output_chunks SELECT * FROM output_chunks",
    "INSERT INTO output_ends SELECT * FROM output_ends",
    "INSERT INTO queues SELECT * FROM queues",
    "INSERT INTO api_keys SELECT * FROM api_keys",
    "INSERT INTO pull_workers SELECT * FROM pull_workers",
];

on_both! {
    async fn half_states_cannot_be_written_past_the_store(store: Fixture) {
        filled(&store).await;
        refuses_half_states(&store, HALF_STATES).await;
    }

    async fn half_states_of_runs_that_were_sent_in_cannot_be_written_either(store: Fixture) {
        filled_with_sent(&store).await;
        refuses_half_states(&store, HALF_STATES_OF_SENT).await;
    }

    async fn what_there_is_one_of_cannot_be_written_twice(store: Fixture) {
        filled(&store).await;
        refuses_twins(&store, TWICE).await;
    }

    async fn what_there_is_one_of_for_a_run_that_was_sent_in_cannot_be_written_twice(store: Fixture) {
        filled_with_sent(&store).await;
        store.raw.exec("INSERT INTO caps VALUES ('all')").await;
        refuses_twins(&store, TWICE_SENT).await;
    }

    async fn every_end_and_source_of_a_run_that_was_sent_in_can_be_stored(store: Fixture) {
        filled_with_sent(&store).await;
        for state in RunState::ALL.iter().filter(|state| state.is_terminal()) {
            takes(&store, &format!("UPDATE run_records SET state = '{state}', finished_at = 1")).await;
            if *state != RunState::Succeeded {
                takes(&store, &format!("UPDATE unsuccessful SET state = '{state}'")).await;
            }
        }
        for source in [Source::Backfill, Source::Daemon] {
            takes(&store, &format!("UPDATE run_records SET source = '{source}'")).await;
        }
    }

    async fn every_word_of_the_model_can_be_stored(store: Fixture) {
        filled(&store).await;
        let words = [
            ("nodes", words(NodeState::ALL, NodeState::word)),
            ("runs", words(RunState::ALL, RunState::word)),
            ("batches", words(BatchState::ALL, BatchState::word)),
            ("attempts", words(AttemptState::ALL, AttemptState::word)),
            ("jobs", words(JobState::ALL, JobState::word)),
        ];
        for (table, words) in words {
            for word in words {
                takes(&store, &completed(table, word)).await;
            }
        }
        for verdict in words_of_verdicts() {
            takes(&store, &format!("UPDATE attempts SET verdict = '{verdict}'")).await;
        }
        for source in [Source::Backfill, Source::Daemon] {
            takes(&store, &format!("UPDATE jobs SET source = '{source}'")).await;
            takes(&store, &format!("UPDATE batches SET source = '{source}'")).await;
        }
        for reason in StopReason::ALL {
            takes(&store, &format!("UPDATE jobs SET state = 'finishing', reason = '{reason}'")).await;
        }
    }
}

only_on! { Postgres:
    /// A column of one database that the other does not have, or that only one of them lets be empty.
    async fn both_databases_have_the_same_tables_columns_and_indexes(store: Fixture) {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("store.db");
        let other = crate::fixture::open(&format!("sqlite:{}", path.display()), store.node_id()).await.unwrap();
        let sqlite = Raw::sqlite(&path).await;
        let columns = store
            .raw
            .rows(
                "SELECT table_name, column_name,
                CASE data_type WHEN 'bigint' THEN 'INT' WHEN 'text' THEN 'TEXT' WHEN 'bytea' THEN 'BLOB' ELSE data_type END,
                CASE is_nullable WHEN 'NO' THEN 'NOT NULL' ELSE 'NULL' END
            FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'",
            )
            .await;
        // An INTEGER PRIMARY KEY is the row's own number and is never empty, though SQLite does not say so.
        let of_sqlite = sqlite
            .rows(
                "SELECT m.name, c.name, CASE c.type WHEN 'BIGINT' THEN 'INT' WHEN 'INTEGER' THEN 'INT' ELSE c.type END,
                CASE WHEN c.\"notnull\" = 1 OR (c.pk > 0 AND c.type = 'INTEGER') THEN 'NOT NULL' ELSE 'NULL' END
            FROM sqlite_master m JOIN pragma_table_info(m.name) c
            WHERE m.type = 'table' AND m.name <> '_sqlx_migrations' AND m.name NOT LIKE 'sqlite_%'",
            )
            .await;
        same(columns.clone(), of_sqlite, "columns");
        let tables: BTreeSet<_> = columns.into_iter().filter_map(|column| column[0].clone()).collect();
        assert!(tables.iter().map(String::as_str).eq(TABLES), "a snapshot looks at every table: {tables:?}");
        let indexes = store
            .raw
            .rows(
                "SELECT t.relname, i.relname, CASE x.indisunique WHEN true THEN 1 ELSE 0 END,
                CASE WHEN x.indpred IS NULL THEN 0 ELSE 1 END
            FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
            JOIN pg_namespace n ON n.oid = t.relnamespace
            WHERE n.nspname = 'public' AND i.relname NOT LIKE '%\\_pkey' AND i.relname NOT LIKE '%\\_key'",
            )
            .await;
        let of_sqlite = sqlite
            .rows(
                "SELECT m.name, i.name, i.\"unique\", i.partial
            FROM sqlite_master m JOIN pragma_index_list(m.name) i WHERE m.type = 'table' AND i.origin = 'c'",
            )
            .await;
        same(indexes, of_sqlite, "indexes");
        let migrations = "SELECT version, description FROM _sqlx_migrations";
        same(store.raw.rows(migrations).await, sqlite.rows(migrations).await, "migrations");
        other.close().await;
    }
}

/// A database with a row in every table: a run queued, one carried by a planned batch, a round that is open.
async fn filled(store: &Fixture) {
    let job = store.driven("letters", 2).await;
    let fence = store.opened(&job, 1).await;
    store.book_stray(&fence.batch, "acme", "a stray", 1, at(3)).await.expect("it is booked");
}

/// A run in each place, two that have ended, and whatever else belongs to runs that are sent in.
async fn filled_with_sent(store: &Fixture) {
    store.sent(NewRecord { buffered: true, ..store.record(ENV) }).await;
    store.sent(NewRecord { idempotency: keyed(store, "k", "f"), ..store.record(ENV) }).await;
    store.leased(store.record(ENV)).await;
    store.pulled(store.for_pull("train", ENV), "w", at(90)).await;
    let lost = store.leased_at_try(TRIES).await;
    store.settle_one(&lost, Ending::Failed).await;
    let chunk = NewChunk {
        run: lost.run,
        epoch: lost.epoch,
        stream: "stdout",
        seq: 0,
        bytes: 1,
        data: b"x".to_vec(),
        dropped: Some(0),
    };
    store.append_output(&[chunk], at(30)).await.expect("it is appended");
    store.pause_queue(ENV, QUEUE, Some(at(1))).await.expect("it is paused");
    store.pull_worker_seen(ENV, "w", "train", at(1)).await.expect("it is remembered");
    store.insert_key(&crate::keys::key("tg_1", ENV)).await.expect("it is inserted");
}

async fn refuses_half_states(store: &Fixture, statements: &[&str]) {
    let before = store.snapshot().await;
    for statement in statements {
        match store.raw.try_exec(statement).await {
            Err(sqlx::Error::Database(error)) => {
                assert!(error.is_check_violation() || statement.contains("NULL"), "{statement}: {error}");
            }
            other => panic!("{statement}: {other:?}"),
        }
    }
    before.assert_same(&store.snapshot().await, "half-states");
}

async fn refuses_twins(store: &Fixture, statements: &[&str]) {
    let before = store.snapshot().await;
    for statement in statements {
        match store.raw.try_exec(statement).await {
            Err(sqlx::Error::Database(error)) => assert!(error.is_unique_violation(), "{statement}: {error}"),
            other => panic!("{statement}: {other:?}"),
        }
    }
    before.assert_same(&store.snapshot().await, "twins");
}

fn words<S: Copy>(states: &[S], word: fn(S) -> &'static str) -> Vec<&'static str> {
    states.iter().map(|state| word(*state)).collect()
}

fn words_of_verdicts() -> Vec<&'static str> {
    words(RequestState::ALL, RequestState::word)
}

/// The update that brings the rows of a table to a state with all that belongs to it.
fn completed(table: &str, word: &str) -> String {
    let over = |over: bool| if over { "1" } else { "NULL" };
    let set = match table {
        "nodes" => String::new(),
        "runs" => {
            let terminal = RunState::from_word(word).is_some_and(RunState::is_terminal);
            let carrier = if word == "running" { "'bat_x'" } else { "NULL" };
            format!(", carrier = {carrier}, finished_at = {}", over(terminal))
        }
        "batches" => {
            let terminal = BatchState::from_word(word).is_some_and(BatchState::is_terminal);
            format!(", intent_at = 1, provider_batch_id = 'p', finished_at = {}", over(terminal))
        }
        "attempts" => format!(", settled_at = {}", over(!matches!(word, "leased" | "started"))),
        "jobs" => {
            let terminal = JobState::from_word(word).is_some_and(JobState::is_terminal);
            let reason = if matches!(word, "finishing" | "finished") { "'drained'" } else { "NULL" };
            format!(", reason = {reason}, finished_at = {}", over(terminal))
        }
        other => panic!("{other} has no state"),
    };
    format!("UPDATE {table} SET state = '{word}'{set}")
}

/// Expects that a statement is carried out, and takes it back.
async fn takes(store: &Fixture, statement: &str) {
    store.raw.exec("BEGIN").await;
    assert!(store.raw.exec(statement).await > 0, "{statement} meets no row");
    store.raw.exec("ROLLBACK").await;
}

fn same(one: Vec<Row>, other: Vec<Row>, what: &str) {
    let (one, other): (BTreeSet<_>, BTreeSet<_>) = (one.into_iter().collect(), other.into_iter().collect());
    assert!(!one.is_empty(), "there are {what}");
    let (only_one, only_other): (Vec<_>, Vec<_>) = (one.difference(&other).collect(), other.difference(&one).collect());
    assert!(
        only_one.is_empty() && only_other.is_empty(),
        "{what} of PostgreSQL only: {only_one:#?}; of SQLite only: {only_other:#?}"
    );
}
