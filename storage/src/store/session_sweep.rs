//! What the sweep knows of sessions: which to look at, what of them is alive, and what it makes of them.

use super::sessions::{LOG, RawSession, SESSION, STEP, log_session, session_columns, step_session};
use super::{SessionRow, Store, expect_one, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Closing, RunId, RunState, SessionEvent, SessionState, Timestamp, Walk};

/// What there is of a session besides its row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionLife {
    /// A run of it is being carried out, under a lease or in a batch.
    pub alive: bool,
    /// A run of it besides its driver has not ended yet, be it alive or waiting.
    pub open: bool,
    /// When the last one of its runs ended.
    pub last_end: Option<Timestamp>,
    pub driver: Option<DriverStands>,
}

/// How the run stands that walks a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverStands {
    Open,
    Ended(RunState),
    /// Its start was counted, and it was never written.
    Missing,
}

/// What the sweep makes of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionFate {
    /// Nothing now; it looks again then, or never.
    Look(Option<Timestamp>),
    Close(Closing),
    /// Its driver is started again, as this run.
    Resume(RunId),
}

const DUE: &str = concat!(
    "-- sessions_due\n",
    session_columns!(),
    "WHERE look_at IS NOT NULL AND look_at <= $1 ORDER BY look_at LIMIT $2"
);

/// Open runs of a session are few, and found without its ended ones. Each is looked up by itself: a plan that could
/// choose would walk over all that is under way.
const ALIVE: &str = "-- session_alive
SELECT 1 FROM run_records r WHERE r.session_id = $1 AND r.finished_at IS NULL
    AND COALESCE((SELECT 1 FROM leases l WHERE l.run_id = r.id LIMIT 1),
        (SELECT 1 FROM runs j WHERE j.id = r.id AND j.env = r.env AND j.state = 'running' LIMIT 1), 0) = 1 LIMIT 1";
const OPEN: &str = "-- session_open
SELECT 1 FROM run_records WHERE session_id = $1 AND finished_at IS NULL AND id <> $2 LIMIT 1";
const LAST_END: &str = "-- session_last_end
SELECT finished_at FROM run_records WHERE session_id = $1 AND finished_at IS NOT NULL
ORDER BY finished_at DESC LIMIT 1";
const DRIVER: &str = "-- session_driver
SELECT state FROM run_records WHERE env = $1 AND id = $2";

const LOOK: &str = "-- look_at_session_again
UPDATE sessions SET look_at = $3 WHERE id = $1 AND seq = $2";

const CHILDREN: &str = "-- session_children
SELECT r.id FROM run_records r JOIN sessions s ON s.id = r.session_id
WHERE r.session_id = $1 AND r.finished_at IS NULL AND (s.driver IS NULL OR s.driver <> r.id)
    AND COALESCE((SELECT l.cancel_requested FROM leases l WHERE l.run_id = r.id LIMIT 1),
        (SELECT j.cancel_requested FROM runs j WHERE j.id = r.id AND j.env = r.env LIMIT 1), 0) = 0
LIMIT $2";

macro_rules! life_of {
    ($from:ident, $row:expr) => {{
        let alive: Option<i32> = sqlx::query_scalar(ALIVE).bind($row.id.as_str()).fetch_optional(&mut *$from).await?;
        let open: Option<i32> = sqlx::query_scalar(OPEN)
            .bind($row.id.as_str())
            .bind($row.driver.as_ref().map_or("", RunId::as_str))
            .fetch_optional(&mut *$from)
            .await?;
        let last_end: Option<i64> =
            sqlx::query_scalar(LAST_END).bind($row.id.as_str()).fetch_optional(&mut *$from).await?;
        let driver = match &$row.driver {
            None => None,
            Some(run) => {
                let state: Option<String> =
                    sqlx::query_scalar(DRIVER).bind(&$row.env).bind(run.as_str()).fetch_optional(&mut *$from).await?;
                Some(match state.as_deref() {
                    None => DriverStands::Missing,
                    Some(word) => RunState::from_word(word).map_or(DriverStands::Open, DriverStands::Ended),
                })
            }
        };
        SessionLife {
            alive: alive.is_some(),
            open: open.is_some(),
            last_end: last_end.map(Timestamp::from_millis),
            driver,
        }
    }};
}

impl Store {
    /// Sessions that are to be looked at by now, at most `limit`.
    pub async fn sessions_due(&self, now: Timestamp, limit: i64) -> Result<Vec<SessionRow>, StoreError> {
        let raw: Vec<RawSession> =
            on_pool!(self, |pool| sqlx::query_as(DUE).bind(now.millis()).bind(limit).fetch_all(pool).await?);
        raw.into_iter().map(SessionRow::try_from).collect()
    }

    /// Does to a session what `judge` says of it and of what is alive of it, in one transaction. Returns how it stands
    /// then and what was decided; `None` if it has moved on since it was read.
    pub async fn sweep_session(
        &self,
        seen: &SessionRow,
        now: Timestamp,
        judge: impl Fn(&SessionRow, &SessionLife) -> SessionFate,
    ) -> Result<Option<(SessionRow, SessionFate)>, StoreError> {
        let swept = in_tx!(self, |tx| {
            let held = sqlx::AssertSqlSafe(format!("{SESSION}{FOR_UPDATE}"));
            let raw: Option<RawSession> =
                sqlx::query_as(held).bind(seen.id.as_str()).bind(&seen.env).fetch_optional(&mut *tx).await?;
            let Some(raw) = raw else { return Ok(None) };
            let mut row = SessionRow::try_from(raw)?;
            if row.seq != seen.seq {
                return Ok(None);
            }
            let life = life_of!(tx, row);
            let fate = judge(&row, &life);
            match &fate {
                SessionFate::Look(at) => {
                    let changed = sqlx::query(LOOK)
                        .bind(row.id.as_str())
                        .bind(row.seq)
                        .bind(at.map(Timestamp::millis))
                        .execute(&mut *tx)
                        .await?
                        .rows_affected();
                    expect_one(changed, "session", row.id.as_str(), "somewhere else")?;
                }
                SessionFate::Close(closing) => {
                    let closed = Walk { state: SessionState::Closed, closing: Some(*closing), ..row.walk.clone() };
                    let stale = i64::try_from(row.rules.stale.as_secs()).unwrap_or(i64::MAX);
                    let data = serde_json::json!({
                        "closing": closing.word(),
                        "by": "sweep",
                        "stale_seconds": (*closing == Closing::Stale).then_some(stale),
                        "resumes": row.resumes,
                    });
                    step_session!(tx, row, SessionEvent::Closed, closed, None, data.to_string(), now);
                }
                SessionFate::Resume(run) => {
                    let data = serde_json::json!({ "driver": run.as_str(), "resume": row.resumes + 1 });
                    let walk = row.walk.clone();
                    step_session!(tx, row, SessionEvent::Resumed, walk, Some(run), data.to_string(), now);
                }
            }
            (row, fate)
        });
        reached(Failpoint::SessionStored);
        Ok(Some(swept))
    }

    /// Runs of a session that nobody has told to end yet, its driver not among them.
    pub async fn session_children(&self, row: &SessionRow, limit: i64) -> Result<Vec<RunId>, StoreError> {
        let runs: Vec<String> = on_pool!(self, |pool| {
            sqlx::query_scalar(CHILDREN).bind(row.id.as_str()).bind(limit).fetch_all(pool).await?
        });
        Ok(runs.into_iter().map(RunId::from_text).collect())
    }
}
