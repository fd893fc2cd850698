//! A batch holds runs of many traces, so that its create is a trace of its own, with links to some of theirs.

use super::Traces;
use super::span::{Kind, Part, Span, ids_of};
use crate::provider::Created;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use storage::Store;
use storage::model::{RunId, RunState, Timestamp, TraceParent};
use storage::store::{BatchRow, Traced};
use tracing::debug;

/// Traces of runs that a batch has links to.
const LINKS_MAX: usize = 32;
/// So many of its first requests are asked for theirs.
const ASKED_MAX: i64 = 1_000;

/// The trace of one create, from before it leaves.
#[derive(Debug)]
pub struct BatchTrace {
    trace: TraceParent,
    links: Vec<TraceParent>,
    begin: Timestamp,
}

impl Traces {
    /// Begins the trace of a create.
    pub async fn create(&self, store: &Store, row: &BatchRow) -> Option<BatchTrace> {
        if !self.is_on() {
            return None;
        }
        let links = store.traces_of_batch(&row.id, &row.env, ASKED_MAX).await;
        let links = links.inspect_err(|error| debug!(batch.id = %row.id, %error, "a batch has no links")).ok()?;
        // Runs that were sent together are of one span.
        let mut seen = HashSet::new();
        let links = links.into_iter().filter(|trace| trace.is_sampled() && seen.insert(*trace)).take(LINKS_MAX);
        Some(BatchTrace { trace: of_create(row), links: links.collect(), begin: store.now() })
    }

    /// Runs have ended by their results, each in its own trace.
    pub async fn ended_in(&self, store: &Store, row: &BatchRow, ended: &[(RunId, String, RunState)]) {
        let asked: Vec<(&str, &RunId)> = ended.iter().map(|(run, env, _)| (env.as_str(), run)).collect();
        let traced: HashMap<RunId, Traced> = self.of_runs(store, &asked).await.into_iter().collect();
        let (since, now) = (row.intent_at.or(row.submitted_at).unwrap_or(row.next_at), store.now());
        for (run, env, state) in ended {
            let Some(Traced { trace, .. }) = traced.get(run) else { continue };
            let fields = vec![
                ("run.id", Value::from(run.as_str())),
                ("run.env", Value::from(env.as_str())),
                ("batch.id", Value::from(row.id.as_str())),
            ];
            let (_, id) = ids_of(&format!("attempt {} {run}", row.id));
            let failed = (*state != RunState::Succeeded).then(|| state.word().to_owned());
            let span = Span::of_run(*trace, run, Part::Attempt, row.epoch, (since.min(now), now));
            self.emit(Span { id, fields, links: vec![of_create(row)], failed, ..span });
        }
    }

    /// The create has been answered, or never will be.
    pub fn created(&self, begun: Option<BatchTrace>, row: &BatchRow, created: &Created, now: Timestamp) {
        let Some(BatchTrace { trace, links, begin }) = begun else { return };
        let failed = match created {
            Created::Accepted { .. } => None,
            Created::NotTaken { .. } => Some("refused"),
            Created::Unclear { .. } => Some("unclear"),
            Created::Store(_) => Some("store"),
        };
        let fields = vec![
            ("batch.id", Value::from(row.id.as_str())),
            ("job.id", Value::from(row.job.as_str())),
            ("requests", Value::from(row.requests)),
        ];
        self.emit(Span {
            trace: trace.trace(),
            id: trace.parent(),
            parent: None,
            name: "batch create",
            kind: Kind::Client,
            begin,
            end: now.max(begin),
            fields,
            links,
            failed: failed.map(str::to_owned),
        });
    }
}

/// The trace of a batch, and in it the span of its create: the same whoever sends it.
fn of_create(row: &BatchRow) -> TraceParent {
    let (trace, _) = ids_of(&format!("batch {}", row.id));
    let (_, span) = ids_of(&format!("create {}", row.create_key()));
    TraceParent::begin(trace, span)
}

impl BatchTrace {
    /// What the create tells the provider.
    pub fn header(&self) -> TraceParent {
        self.trace
    }
}
