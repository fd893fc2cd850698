//! A session as its owner sees it.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use storage::model::{Closing, SessionState, Timestamp};
use storage::store::{SessionLogEntry, SessionRow};

#[derive(Serialize)]
pub struct View<'a> {
    id: &'a str,
    env: &'a str,
    r#type: &'a str,
    status: &'static str,
    /// Why it is closed.
    outcome: Option<&'static str>,
    round: i64,
    phase: &'a str,
    /// In the order in which phases are reached, from 1.
    phase_number: Option<usize>,
    round_completed: bool,
    /// Where it may go from here.
    allowed: Vec<String>,
    /// What can still come in this round.
    remaining: Vec<&'a str>,
    driver_run_id: Option<&'a str>,
    resumes: i64,
    max_resumes: i64,
    metadata: Option<&'a RawValue>,
    opened_at: String,
    moved_at: String,
    closed_at: Option<String>,
}

impl<'a> View<'a> {
    pub fn of(row: &'a SessionRow) -> View<'a> {
        let (walk, graph) = (&row.walk, &row.rules.graph);
        let is_closed = walk.state == SessionState::Closed;
        let remaining = match is_closed || walk.completed {
            true => Vec::new(),
            false => graph.walk(&walk.phase).into_iter().skip(1).collect(),
        };
        View {
            id: row.id.as_str(),
            env: &row.env,
            r#type: &row.kind,
            status: walk.state.word(),
            outcome: walk.closing.map(Closing::word),
            round: walk.round,
            phase: &walk.phase,
            phase_number: graph.number(&walk.phase),
            round_completed: walk.completed,
            allowed: walk.allowed(graph),
            remaining,
            driver_run_id: row.driver.as_ref().map(|run| run.as_str()),
            resumes: row.resumes,
            max_resumes: row.rules.resumes_max,
            metadata: serde_json::from_str(&row.metadata).ok(),
            opened_at: row.opened_at.to_string(),
            moved_at: row.moved_at.to_string(),
            closed_at: is_closed.then(|| row.moved_at.to_string()),
        }
    }
}

pub fn event(entry: &SessionLogEntry) -> Value {
    json!({
        "seq": entry.seq,
        "at": Timestamp::from_millis(entry.at).to_string(),
        "event": entry.event,
        "round": entry.round,
        "phase": entry.phase,
        "data": serde_json::from_str::<Value>(&entry.data).unwrap_or_default(),
    })
}
