//! Sessions: opened, moved along their graph, closed once. Each change is one event, and the row that follows from it,
//! in one transaction that holds the row (invariants 27 to 30).

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{Closing, Graph, Refusal, RunId, SessionEvent, SessionId, SessionState, Step, Timestamp, Walk};
use std::time::Duration;

/// What holds for a session of a type from its opening on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRules {
    pub graph: Graph,
    /// How often a driver that has ended without completing a round is started again.
    pub resumes_max: i64,
    /// Without an event and with nothing alive for so long it is closed as stale.
    pub stale: Duration,
    /// Completed and with nothing alive for so long it is closed as complete.
    pub quiet: Duration,
}

/// A session as it is asked for.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub id: SessionId,
    pub env: String,
    /// The name of its type.
    pub kind: String,
    pub rules: SessionRules,
    /// A JSON object.
    pub metadata: String,
    /// The run that walks it: it is judged by the session, and a close spares it.
    pub driver: Option<RunId>,
}

/// A session as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    pub id: SessionId,
    pub env: String,
    pub kind: String,
    pub rules: SessionRules,
    pub metadata: String,
    pub walk: Walk,
    /// The run that walks it now.
    pub driver: Option<RunId>,
    /// The one that walked it first; the others are made from it.
    pub first_driver: Option<RunId>,
    /// Times that its driver was started again in this round.
    pub resumes: i64,
    /// Number of its last event.
    pub seq: i64,
    pub opened_at: Timestamp,
    /// When its last event was.
    pub moved_at: Timestamp,
}

/// What became of a wish for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOpened {
    New,
    /// The run drives this one already; it was asked for twice.
    Driven(SessionId),
    /// There is no such run, it has ended, or it belongs to another session.
    NoSuchDriver,
}

/// What became of a wish to change one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    /// It stands so; `changed` says whether by this.
    Is {
        row: Box<SessionRow>,
        changed: bool,
    },
    Refused {
        row: Box<SessionRow>,
        why: Refusal,
    },
    NotFound,
}

/// One thing that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SessionLogEntry {
    /// From 1, without a gap.
    pub seq: i64,
    pub at: i64,
    pub event: String,
    pub round: i64,
    pub phase: String,
    /// An object.
    pub data: String,
}

/// Which sessions to list.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    pub state: Option<SessionState>,
    pub kind: Option<String>,
}

#[derive(sqlx::FromRow)]
pub(super) struct RawSession {
    id: String,
    env: String,
    r#type: String,
    graph: String,
    metadata: String,
    state: String,
    closing: Option<String>,
    round: i64,
    phase: String,
    completed_round: i64,
    driver: Option<String>,
    first_driver: Option<String>,
    resumes: i64,
    resumes_max: i64,
    stale_ms: i64,
    quiet_ms: i64,
    seq: i64,
    opened_at: i64,
    moved_at: i64,
}

impl TryFrom<RawSession> for SessionRow {
    type Error = StoreError;

    fn try_from(raw: RawSession) -> Result<SessionRow, StoreError> {
        let corrupt = |what: &'static str, value: &str| StoreError::Corrupt {
            entity: "session",
            id: raw.id.clone(),
            what,
            value: value.to_owned(),
        };
        let closing = match raw.closing.as_deref() {
            None => None,
            Some(word) => Some(Closing::from_word(word).ok_or_else(|| corrupt("closing", word))?),
        };
        let span = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Ok(SessionRow {
            walk: Walk {
                state: SessionState::from_word(&raw.state).ok_or_else(|| corrupt("state", &raw.state))?,
                closing,
                round: raw.round,
                completed: raw.completed_round == raw.round,
                phase: raw.phase,
            },
            rules: SessionRules {
                graph: serde_json::from_str(&raw.graph).map_err(|_| corrupt("graph", &raw.graph))?,
                resumes_max: raw.resumes_max,
                stale: span(raw.stale_ms),
                quiet: span(raw.quiet_ms),
            },
            env: raw.env,
            kind: raw.r#type,
            metadata: raw.metadata,
            driver: raw.driver.map(RunId::from_text),
            first_driver: raw.first_driver.map(RunId::from_text),
            resumes: raw.resumes,
            seq: raw.seq,
            opened_at: Timestamp::from_millis(raw.opened_at),
            moved_at: Timestamp::from_millis(raw.moved_at),
            id: SessionId::from_text(raw.id),
        })
    }
}

macro_rules! session_columns {
    () => {
        "SELECT id, env, type, graph, metadata, state, closing, round, phase, completed_round, driver,
            first_driver, resumes, resumes_max, stale_ms, quiet_ms, seq, opened_at, moved_at
        FROM sessions "
    };
}

pub(super) use session_columns;

pub(super) const SESSION: &str = concat!("-- session\n", session_columns!(), "WHERE id = $1 AND env = $2");

const INSERT: &str = "-- insert_session
INSERT INTO sessions (id, env, type, graph, metadata, state, round, phase, driver, first_driver, resumes_max, stale_ms,
    quiet_ms, seq, opened_at, moved_at, look_at)
VALUES ($1, $2, $3, $4, $5, 'active', 1, $6, $7, $7, $8, $9, $10, 1, $11, $11, $12)";

pub(super) const LOG: &str = "-- log_session
INSERT INTO session_events (session_id, seq, at, event, round, phase, data) VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// A run belongs to one session for good.
const BIND_DRIVER: &str = "-- bind_driver
UPDATE run_records SET session_id = $3 WHERE env = $1 AND id = $2 AND session_id IS NULL AND state = 'open'";

const DRIVEN_BY: &str = "-- session_driven_by
SELECT s.id FROM run_records r JOIN sessions s ON s.id = r.session_id AND s.driver = r.id
WHERE r.env = $1 AND r.id = $2";

pub(super) const STEP: &str = "-- step_session
UPDATE sessions SET state = $3, closing = $4, round = $5, phase = $6, resumes = $7, driver = COALESCE($8, driver),
    completed_round = CASE WHEN $9 = 1 THEN $5 ELSE completed_round END,
    completed_at = CASE WHEN $9 = 1 THEN $11 ELSE completed_at END, seq = $10, moved_at = $11, look_at = $12
WHERE id = $1 AND seq = $2";

const EVENTS: &str = "-- session_log
SELECT seq, at, event, round, phase, data FROM session_events WHERE session_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";

/// How often a session is looked at whose driver may have ended without a word.
const DRIVER_EVERY: Duration = Duration::from_secs(5);

impl SessionRules {
    /// When the sweep has to look at a session next: at the first time at which something could be due.
    pub fn look_at(&self, walk: &Walk, is_driven: bool, moved_at: Timestamp, now: Timestamp) -> Timestamp {
        if walk.state == SessionState::Closed {
            return now;
        }
        let mut at = moved_at + self.stale;
        if walk.completed {
            at = at.min(moved_at + self.quiet);
        } else if is_driven && self.resumes_max > 0 {
            at = at.min(now + DRIVER_EVERY);
        }
        at
    }
}

impl SessionRow {
    /// Times that the driver was started again, once this has happened.
    pub(super) fn resumes_after(&self, event: SessionEvent) -> i64 {
        match event {
            SessionEvent::Resumed => self.resumes + 1,
            SessionEvent::NextRound | SessionEvent::Reopened => 0,
            _ => self.resumes,
        }
    }
}

macro_rules! log_session {
    ($tx:ident, $id:expr, $seq:expr, $at:expr, $event:expr, $walk:expr, $data:expr) => {
        sqlx::query(LOG)
            .bind($id.as_str())
            .bind($seq)
            .bind($at.millis())
            .bind($event)
            .bind($walk.round)
            .bind(&$walk.phase)
            .bind($data)
            .execute(&mut *$tx)
            .await?
    };
}

/// Writes an event and then the row as it stands by it; both, or neither.
macro_rules! step_session {
    ($tx:ident, $row:ident, $event:expr, $walk:expr, $driver:expr, $data:expr, $now:expr) => {{
        let (event, walk, now): (SessionEvent, Walk, Timestamp) = ($event, $walk, $now);
        let driver: Option<&RunId> = $driver;
        let (seq, resumes) = ($row.seq + 1, $row.resumes_after(event));
        log_session!($tx, $row.id, seq, now, event.word(), walk, $data);
        reached(Failpoint::SessionTold);
        let look = $row.rules.look_at(&walk, driver.is_some() || $row.driver.is_some(), now, now);
        let changed = sqlx::query(STEP)
            .bind($row.id.as_str())
            .bind($row.seq)
            .bind(walk.state.word())
            .bind(walk.closing.map(Closing::word))
            .bind(walk.round)
            .bind(&walk.phase)
            .bind(resumes)
            .bind(driver.map(RunId::as_str))
            .bind(i64::from(event == SessionEvent::Completed))
            .bind(seq)
            .bind(now.millis())
            .bind(look.millis())
            .execute(&mut *$tx)
            .await?
            .rows_affected();
        super::expect_one(changed, "session", $row.id.as_str(), "somewhere else")?;
        if let Some(run) = driver {
            $row.driver = Some(run.clone());
        }
        ($row.walk, $row.seq, $row.resumes, $row.moved_at) = (walk, seq, resumes, now);
    }};
}

pub(super) use {log_session, step_session};

impl Store {
    /// Opens a session at its initial phase, and binds its driver to it if it has one.
    pub async fn open_session(&self, new: &NewSession, now: Timestamp) -> Result<SessionOpened, StoreError> {
        let graph = serde_json::to_string(&new.rules.graph).unwrap_or_default();
        let walk = Walk::new(&new.rules.graph);
        let look = new.rules.look_at(&walk, new.driver.is_some(), now, now);
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        in_tx!(self, |tx| {
            if let Some(driver) = &new.driver {
                let bound = sqlx::query(BIND_DRIVER)
                    .bind(&new.env)
                    .bind(driver.as_str())
                    .bind(new.id.as_str())
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                if bound == 0 {
                    let driven: Option<String> = sqlx::query_scalar(DRIVEN_BY)
                        .bind(&new.env)
                        .bind(driver.as_str())
                        .fetch_optional(&mut *tx)
                        .await?;
                    let already = driven.map(|id| SessionOpened::Driven(SessionId::from_text(id)));
                    return Ok(already.unwrap_or(SessionOpened::NoSuchDriver));
                }
            }
            sqlx::query(INSERT)
                .bind(new.id.as_str())
                .bind(&new.env)
                .bind(&new.kind)
                .bind(&graph)
                .bind(&new.metadata)
                .bind(&walk.phase)
                .bind(new.driver.as_ref().map(RunId::as_str))
                .bind(new.rules.resumes_max)
                .bind(millis(new.rules.stale))
                .bind(millis(new.rules.quiet))
                .bind(now.millis())
                .bind(look.millis())
                .execute(&mut *tx)
                .await?;
            log_session!(tx, new.id, 1_i64, now, "opened", walk, &new.metadata);
            reached(Failpoint::SessionOpen);
        });
        Ok(SessionOpened::New)
    }

    /// A session of an env; another env's is not found.
    pub async fn session(&self, env: &str, id: &SessionId) -> Result<Option<SessionRow>, StoreError> {
        let raw: Option<RawSession> =
            on_pool!(self, |pool| sqlx::query_as(SESSION).bind(id.as_str()).bind(env).fetch_optional(pool).await?);
        raw.map(SessionRow::try_from).transpose()
    }

    /// Sessions of an env, newest first, those before `before` if it is given, at most `limit`.
    pub async fn list_sessions(
        &self,
        env: &str,
        filter: &SessionFilter,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SessionRow>, StoreError> {
        let raw: Vec<RawSession> = on_pool!(self, |pool| {
            let mut select = sqlx::QueryBuilder::<Db>::new(concat!("-- list_sessions\n", session_columns!()));
            select.push("WHERE env = ").push_bind(env);
            // As a text of its own, so that the index over the active ones is known to do.
            select.push(match filter.state {
                Some(SessionState::Active) => " AND state = 'active'",
                Some(SessionState::Closed) => " AND state = 'closed'",
                None => "",
            });
            if let Some(kind) = &filter.kind {
                select.push(" AND type = ").push_bind(kind.as_str());
            }
            if let Some(before) = before {
                select.push(" AND id < ").push_bind(before);
            }
            select.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
            select.build_query_as().persistent(false).fetch_all(pool).await?
        });
        raw.into_iter().map(SessionRow::try_from).collect()
    }

    /// A session's log after an entry, at most `limit`.
    pub async fn session_log(
        &self,
        id: &SessionId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<SessionLogEntry>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(EVENTS).bind(id.as_str()).bind(after).bind(limit).fetch_all(pool).await?
        }))
    }

    /// Changes a session as `decide` says of how it stands while nobody else can change it. `data` is an object that
    /// is kept with the event. What is refused, or stands so already, leaves no trace.
    pub async fn change_session(
        &self,
        env: &str,
        id: &SessionId,
        data: &str,
        now: Timestamp,
        decide: impl Fn(&SessionRow) -> Result<Step, Refusal>,
    ) -> Result<SessionChange, StoreError> {
        let (row, changed) = in_tx!(self, |tx| {
            let held = sqlx::AssertSqlSafe(format!("{SESSION}{FOR_UPDATE}"));
            let raw: Option<RawSession> =
                sqlx::query_as(held).bind(id.as_str()).bind(env).fetch_optional(&mut *tx).await?;
            let Some(raw) = raw else { return Ok(SessionChange::NotFound) };
            let mut row = SessionRow::try_from(raw)?;
            match decide(&row) {
                Err(why) => return Ok(SessionChange::Refused { row: Box::new(row), why }),
                Ok(Step::Stay) => (row, false),
                Ok(Step::Go(event, walk)) => {
                    step_session!(tx, row, event, walk, None, data, now);
                    (row, true)
                }
            }
        });
        if changed {
            reached(Failpoint::SessionStored);
        }
        Ok(SessionChange::Is { row: Box::new(row), changed })
    }
}
