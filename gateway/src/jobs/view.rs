//! A job as it is shown: the cells of a table, and the object that programs read.

use crate::output::{Cell, Column, Record, Room, Row, Section};
use serde_json::{Map, Value, json};
use std::time::Duration;
use storage::model::{BatchState, Draw, Money, StopReason, Timestamp};
use storage::store::{BatchTally, JobRow, PoolCounts, RoundRow};

pub const COLUMNS: &[Column] = &[
    Column::new("ID", Room::Whole),
    Column::new("STATE", Room::Whole),
    Column::new("STOPPED BY", Room::Whole),
    Column::new("ITEMS", Room::Spare),
    Column::new("OK", Room::Spare),
    Column::new("FAILED", Room::Whole),
    Column::new("PENDING", Room::Whole),
    Column::new("SPENT", Room::Spare),
    Column::new("CREATED", Room::Spare),
    Column::new("LABEL", Room::Cut),
    Column::new("PROVIDER", Room::Spare),
    Column::new("SOURCE", Room::Spare),
];

const ROUNDS: &[Column] = &[
    Column::new("ROUND", Room::Whole),
    Column::new("PENDING BEFORE", Room::Whole),
    Column::new("PENDING AFTER", Room::Whole),
    Column::new("CARRIED OUT", Room::Whole),
    Column::new("ERRORED", Room::Whole),
    Column::new("ENDED", Room::Whole),
];

/// What is known of a job beside its row. Counts and money are its pool's: a job that goes on where another one
/// was stopped shares its runs.
pub struct Facts {
    pub counts: PoolCounts,
    pub tally: BatchTally,
    pub states: Vec<(BatchState, i64)>,
    /// Newest first.
    pub rounds: Vec<RoundRow>,
}

/// What the runs cost; unknown as soon as one of them has no known price.
fn spent(counts: &PoolCounts) -> Option<Money> {
    (counts.unpriced == 0).then(|| Money::from_nanos(counts.spent_nanos))
}

pub fn rounds(job: &JobRow) -> i64 {
    (job.round - job.first_round + 1).max(0)
}

pub fn row(job: &JobRow, counts: &PoolCounts) -> Row {
    let cells = vec![
        Cell::text(job.id.as_str()),
        Cell::text(job.state.word()),
        Cell::maybe(job.reason.map(StopReason::word)),
        Cell::Number(counts.total),
        Cell::Number(counts.succeeded),
        Cell::Number(counts.failed),
        Cell::Number(counts.pending()),
        Cell::Usd(spent(counts)),
        Cell::Time(Some(job.created_at)),
        Cell::text(&job.label),
        Cell::text(&job.scope.provider),
        Cell::text(job.source.word()),
    ];
    Row { cells, json: object(job, counts) }
}

pub fn whole(job: &JobRow, facts: &Facts) -> Record {
    let Facts { counts, tally, states, rounds } = facts;
    let mut object = object(job, counts);
    let by_state: Map<_, _> = states.iter().map(|(state, count)| (state.word().to_owned(), json!(count))).collect();
    object["batches"] = json!({
        "by_state": by_state,
        "created": tally.created,
        "adopted": tally.adopted,
        "unknown": tally.unknown,
        "cancelled": tally.cancelled,
    });
    object["round_log"] = rounds.iter().rev().map(json_round).collect();
    let rows = rounds.iter().rev().map(|round| {
        let number = |count: Option<i64>| count.map_or(Cell::Absent, Cell::Number);
        vec![
            Cell::Number(round.round),
            Cell::Number(round.pending_before),
            number(round.pending_after),
            number(round.carried),
            number(round.errored),
            Cell::Time(round.ended_at.map(Timestamp::from_millis)),
        ]
    });
    let sections = vec![Section { name: "round", columns: ROUNDS, rows: rows.collect() }];
    Record { fields: fields(job, facts), sections, json: object }
}

fn fields(job: &JobRow, Facts { counts, tally, states, .. }: &Facts) -> Vec<(&'static str, Cell)> {
    let batches: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let ceilings = &job.ceilings;
    let wallclock = ceilings.max_wallclock().map(|span| format!("{} s", span.as_secs_f64()));
    vec![
        ("id", Cell::text(job.id.as_str())),
        ("label", Cell::text(&job.label)),
        ("state", Cell::text(job.state.word())),
        ("stop reason", Cell::maybe(job.reason.map(StopReason::word))),
        ("clean", Cell::maybe(job.reason.map(|reason| if reason.is_clean() { "yes" } else { "no" }))),
        ("detail", Cell::maybe(job.detail.as_deref())),
        ("env", Cell::text(&job.env)),
        ("pool", Cell::text(pool(job))),
        ("scope", Cell::maybe(job.draw.as_ref().map(Draw::described).as_deref())),
        ("source", Cell::text(job.source.word())),
        ("provider", Cell::text(&job.scope.provider)),
        ("account", Cell::text(&job.scope.account)),
        ("input sha256", Cell::text(&job.scope.input_sha256)),
        ("items expected", Cell::Number(job.expected)),
        ("items", Cell::Number(counts.total)),
        ("succeeded", Cell::Number(counts.succeeded)),
        ("failed", Cell::Number(counts.failed)),
        ("queued", Cell::Number(counts.queued)),
        ("running", Cell::Number(counts.running)),
        ("residue", Cell::Number(counts.pending() + counts.given_back)),
        ("rounds", Cell::Number(rounds(job))),
        ("batches", Cell::text(batches.join(", "))),
        ("adopted", Cell::Number(tally.adopted)),
        ("duplicates cancelled", Cell::Number(tally.cancelled)),
        ("spent", Cell::Usd(spent(counts))),
        ("reserved", Cell::Usd(Some(Money::from_nanos(counts.reserved_nanos)))),
        ("max usd", Cell::Usd(ceilings.max_usd())),
        ("max rounds", Cell::Number(i64::from(ceilings.max_rounds))),
        ("max wallclock", Cell::maybe(wallclock)),
        ("max batch requests", Cell::Number(i64::from(ceilings.max_batch_requests))),
        ("max attempts", Cell::Number(i64::from(job.scope.max_attempts))),
        ("holder", Cell::maybe(job.holder.as_deref())),
        ("held back until", Cell::Time(held_until(job))),
        ("created", Cell::Time(Some(job.created_at))),
        ("started", Cell::Time(job.started_at)),
        ("finished", Cell::Time(job.finished_at)),
    ]
}

pub fn object(job: &JobRow, counts: &PoolCounts) -> Value {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let ceilings = &job.ceilings;
    json!({
        "id": job.id.as_str(),
        "label": job.label,
        "state": job.state.word(),
        "stop_reason": job.reason.map(StopReason::word),
        "clean": job.reason.map(StopReason::is_clean),
        "detail": job.detail,
        "env": job.env,
        "pool": pool(job),
        "source": job.source.word(),
        "scope": job.draw.as_ref().map(scope),
        "provider": job.scope.provider,
        "account": job.scope.account,
        "input_sha256": job.scope.input_sha256,
        "edition": job.scope.edition,
        "items": items(job, counts),
        "residue": counts.pending() + counts.given_back,
        "rounds": rounds(job),
        "spend_usd": spent(counts).map(|spent| spent.to_string()),
        "reserved_usd": Money::from_nanos(counts.reserved_nanos).to_string(),
        "limits": {
            "max_usd": ceilings.max_usd().map(|money| money.to_string()),
            "max_rounds": ceilings.max_rounds,
            "max_wallclock_seconds": ceilings.max_wallclock().map(|span| span.as_secs_f64()),
            "max_batch_requests": ceilings.max_batch_requests,
            "max_attempts": job.scope.max_attempts,
            "live_below": ceilings.live.below,
            "live_after_seconds": ceilings.live.after_ms.map(|after| Duration::from_millis(after).as_secs_f64()),
            "canary": ceilings.live.canary,
        },
        "learned_max_requests": job.learned_max_requests,
        "epoch": job.epoch.number(),
        "holder": job.holder,
        "held_until": time(held_until(job)),
        "created_at": time(Some(job.created_at)),
        "started_at": time(job.started_at),
        "finished_at": time(job.finished_at),
    })
}

/// What a person calls the runs: those of a file have a pool of that file's, others that of their task.
fn pool(job: &JobRow) -> &str {
    job.draw.as_ref().map_or(&job.pool, |draw| &draw.task)
}

pub fn items(job: &JobRow, counts: &PoolCounts) -> Value {
    let total = counts.total + counts.given_back;
    json!({
        "expected": if job.draw.is_some() { total } else { job.expected },
        "total": total,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "queued": counts.queued,
        "running": counts.running,
        "pending": counts.pending(),
        "given_back": counts.given_back,
    })
}

pub fn scope(draw: &Draw) -> Value {
    let time = |ms: Option<i64>| ms.map(|ms| Timestamp::from_millis(ms).to_string());
    json!({
        "since": time(draw.since_ms),
        "until": time(draw.until_ms),
        "queue": draw.queue,
        "filter": {
            "queue": draw.queue,
            "tags": draw.tags,
            "session_id": draw.session_id,
            "concurrency_key": draw.concurrency_key,
            "priority_min": draw.priority_min,
        },
        "policy": draw.policy.word(),
        "period": draw.standing.map(|standing| json!({
            "seconds": Duration::from_millis(standing.every_ms).as_secs_f64(),
            "runs": standing.at_runs,
            "bytes": standing.at_bytes,
        })),
    })
}

fn json_round(round: &RoundRow) -> Value {
    json!({
        "round": round.round,
        "pending_before": round.pending_before,
        "pending_after": round.pending_after,
        "carried": round.carried,
        "errored": round.errored,
        "ended_at": round.ended_at.map(|at| Timestamp::from_millis(at).to_string()),
    })
}

/// `0` stands for "not held back", and a job that is over opens no batch.
fn held_until(job: &JobRow) -> Option<Timestamp> {
    Some(job.hold_until).filter(|at| !job.state.is_terminal() && at.millis() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;
    use storage::model::{Ceilings, Epoch, JobId, JobState, LiveRules, Scope, Source};

    fn job(state: JobState, reason: Option<StopReason>) -> JobRow {
        JobRow {
            id: JobId::from_text("job_1"),
            env: "default/dev".into(),
            pool: "p".into(),
            source: Source::Backfill,
            state,
            reason,
            detail: None,
            label: "letters.jsonl".into(),
            scope: Scope {
                input_sha256: "00".into(),
                provider: "openai".into(),
                account: "a".into(),
                max_attempts: 3,
                edition: 0,
            },
            draw: None,
            ceilings: Ceilings {
                max_rounds: 30,
                max_wallclock_ms: Some(5_400_000),
                max_usd_nanos: Some(5_000_000_000),
                max_batch_requests: 50_000,
                live: LiveRules::default(),
            },
            expected: 10,
            round: 4,
            first_round: 3,
            hold_until: Timestamp::from_millis(0),
            learned_max_requests: None,
            epoch: Epoch::from_number(2),
            holder: None,
            created_at: Timestamp::from_millis(0),
            started_at: None,
            finished_at: None,
        }
    }

    fn counts(unpriced: i64) -> PoolCounts {
        PoolCounts { total: 10, queued: 1, running: 2, succeeded: 6, failed: 1, unpriced, ..PoolCounts::default() }
    }

    #[test]
    fn an_object_says_why_the_job_stopped_and_what_is_left() {
        let object = object(&job(JobState::Finished, Some(StopReason::MaxRounds)), &counts(0));
        assert_eq!((&object["stop_reason"], &object["clean"]), (&Value::from("max_rounds"), &Value::from(false)));
        assert_eq!((&object["residue"], &object["rounds"]), (&Value::from(3), &Value::from(2)));
        assert_eq!((&object["spend_usd"], &object["limits"]["max_usd"]), (&Value::from("0.00"), &Value::from("5.00")));
        assert_eq!(object["limits"]["max_wallclock_seconds"], 5_400.0);
    }

    #[test]
    fn what_is_not_known_yet_is_null() {
        let object = object(&job(JobState::Running, None), &counts(1));
        for key in ["stop_reason", "clean", "spend_usd", "detail", "held_until", "finished_at"] {
            assert_eq!(object[key], Value::Null, "{key}");
        }
    }

    #[test]
    fn a_record_counts_its_batches_by_state_and_lists_its_rounds_in_order() {
        let round = |round, ended_at| RoundRow {
            round,
            pending_before: 10,
            pending_after: ended_at,
            carried: ended_at,
            errored: ended_at,
            ended_at,
        };
        let facts = Facts {
            counts: counts(0),
            tally: BatchTally::default(),
            states: vec![(BatchState::Unknown, 1), (BatchState::Collected, 2)],
            rounds: vec![round(4, None), round(3, Some(0))],
        };
        let record = whole(&job(JobState::Running, None), &facts);
        let text = record.render(Output::Table, Style::Plain);
        assert!(text.contains("batches\t1 unknown, 2 collected\n"), "{text}");
        assert!(
            text.ends_with("round\t3\t10\t0\t0\t0\t1970-01-01T00:00:00.000Z\nround\t4\t10\t—\t—\t—\t—\n"),
            "{text}"
        );
        assert_eq!(record.json["batches"]["by_state"], json!({ "unknown": 1, "collected": 2 }));
        assert_eq!(record.json["round_log"][1]["carried"], Value::Null);
    }

    #[test]
    fn every_column_has_its_cell() {
        assert_eq!(row(&job(JobState::Running, None), &counts(0)).cells.len(), COLUMNS.len());
    }
}
