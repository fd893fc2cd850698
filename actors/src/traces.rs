//! Spans of runs, for whoever exports them.
//!
//! What a span is called, whose child it is and which id it has follows from the run, so that any node goes on in the
//! same tree, before and after a death. Who records a trace puts its own spans into it; who does not passes it on as
//! it came, so that no span is ever a child of one that nobody has. Never: waits, or knows where spans go.

mod batch;
mod moments;
mod span;

pub use batch::BatchTrace;
pub use span::{Kind, Part, Span};

use crate::executor::Outcome;
use crate::metrics::SPANS_DROPPED;
use crate::runs::Held;
use moments::Moments;
use serde_json::Value;
use span::span_id;
use std::collections::HashMap;
use std::sync::Arc;
use storage::Store;
use storage::model::{Epoch, RunId, Timestamp, TraceParent};
use storage::store::{Finished, Leased, Traced};
use tokio::sync::mpsc;
use tracing::debug;

/// Spans that wait to be exported; beyond these they are dropped and counted.
const WAITING_MAX: usize = 8_192;

/// The door through which spans leave; closed where nobody wants them.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    spans: mpsc::Sender<Span>,
    /// Of traces that begin here, the part that is recorded.
    ratio: f64,
    let_through: Moments,
}

impl Traces {
    /// Nobody wants spans.
    pub fn off() -> Traces {
        Traces(None)
    }

    /// Spans go to whoever has the other end.
    pub fn on(ratio: f64) -> (Traces, mpsc::Receiver<Span>) {
        let (spans, queue) = mpsc::channel(WAITING_MAX);
        (Traces(Some(Arc::new(Open { spans, ratio, let_through: Moments::default() }))), queue)
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The trace, if it is recorded here.
    pub fn recorded(&self, trace: Option<TraceParent>) -> Option<TraceParent> {
        trace.filter(|trace| self.is_on() && trace.is_sampled())
    }

    /// A trace that begins here, if it is one of those that are recorded.
    pub fn begin(&self, trace: u128, root: u64) -> Option<TraceParent> {
        /// The bits that are random in every trace's id, by level 2 of the standard.
        const RANDOM_BITS: u128 = (1 << 56) - 1;
        let open = self.0.as_ref()?;
        let below = (open.ratio * (RANDOM_BITS + 1) as f64) as u128;
        (trace & RANDOM_BITS < below).then(|| TraceParent::begin(trace, root))
    }

    /// A span that is over. It is counted if it finds no place.
    pub fn emit(&self, span: Span) {
        if let Some(open) = &self.0
            && open.spans.try_send(span).is_err()
        {
            metrics::counter!(SPANS_DROPPED).increment(1);
        }
    }

    /// What is told to whoever carries a part of a run out; its spans become children of that part.
    pub fn within(&self, trace: Option<TraceParent>, part: Part, run: &RunId, epoch: Epoch) -> Option<TraceParent> {
        match self.recorded(trace) {
            Some(recorded) => Some(recorded.within(span_id(run.as_str(), part, epoch))),
            None => trace,
        }
    }

    /// Those of some runs that are recorded. A store that does not tell is no reason to stop.
    pub async fn of_runs(&self, store: &Store, runs: &[(&str, &RunId)]) -> Vec<(RunId, Traced)> {
        if !self.is_on() || runs.is_empty() {
            return Vec::new();
        }
        let traced = store.traced(runs).await.inspect_err(|error| debug!(%error, "spans of runs are left away"));
        traced.unwrap_or_default().into_iter().filter(|(_, traced)| traced.trace.is_sampled()).collect()
    }

    /// Runs were made ready that waited in the buffer since they were accepted.
    pub fn let_through(&self, runs: Vec<(RunId, Traced)>, now: Timestamp) {
        let Some(open) = &self.0 else { return };
        for (run, Traced { trace, accepted_at }) in runs {
            let fields = vec![("run.id", Value::from(run.as_str()))];
            self.emit(Span {
                fields,
                ..Span::of_run(trace, &run, Part::Buffer, Epoch::from_number(0), (accepted_at, now))
            });
            open.let_through.note(run, now);
        }
    }

    /// A run was claimed that waited since it was ready.
    pub fn claimed(&self, trace: Option<TraceParent>, leased: &Leased, now: Timestamp) {
        let (Some(open), Some(trace)) = (&self.0, self.recorded(trace)) else { return };
        let ready = open.let_through.take(&leased.run).map_or(leased.since, |at| at.max(leased.since));
        let span = Span::of_run(trace, &leased.run, Part::Queue, leased.epoch, (ready, now));
        self.emit(Span { fields: fields_of(leased), ..span });
    }

    /// An attempt of this node's has ended. Where its executor asked somebody else, that is a span of its own.
    pub fn attempted(&self, held: &Held, asked_since: Option<Timestamp>, outcome: &Outcome, now: Timestamp) {
        let Some(trace) = self.recorded(held.brief.trace) else { return };
        let leased = &held.leased;
        let failed = failure_of(outcome);
        if let Some(since) = asked_since {
            let request = Span::of_run(trace, &leased.run, Part::Request, leased.epoch, (since, now));
            let attempt = span_id(leased.run.as_str(), Part::Attempt, leased.epoch);
            let fields = vec![("http.request.method", Value::from("POST"))];
            self.emit(Span { parent: Some(attempt), fields, failed: failed.clone(), ..request });
        }
        let span = Span::of_run(trace, &leased.run, Part::Attempt, leased.epoch, (held.claimed_at, now));
        self.emit(Span { fields: fields_of(leased), failed, ..span });
    }

    /// An attempt has ended that somebody else carried.
    pub fn ended_elsewhere(&self, trace: TraceParent, attempt: Elsewhere<'_>, now: Timestamp) {
        let Elsewhere { run, env, epoch, since, failed } = attempt;
        let fields = vec![("run.id", Value::from(run.as_str())), ("run.env", Value::from(env))];
        self.emit(Span { fields, failed, ..Span::of_run(trace, run, Part::Attempt, epoch, (since, now)) });
    }

    /// Runs were taken back from carriers that are gone and can tell nothing.
    pub async fn taken_back(&self, store: &Store, taken: &[Finished]) {
        let runs: Vec<(&str, &RunId)> = taken.iter().map(|finished| (finished.env.as_str(), &finished.run)).collect();
        let traced: HashMap<RunId, Traced> = self.of_runs(store, &runs).await.into_iter().collect();
        if traced.is_empty() {
            return;
        }
        let ids: Vec<&RunId> = traced.keys().collect();
        let lost =
            store.lost_attempts(&ids).await.inspect_err(|error| debug!(%error, "spans of attempts are left away"));
        let (lost, now) = (lost.unwrap_or_default(), store.now());
        for Finished { run, env, state, .. } in taken {
            let Some(Traced { trace, .. }) = traced.get(run).copied() else { continue };
            let ended = match state {
                // The last attempt of a run is told by the run.
                Some(state) if state.is_terminal() => Self::last_attempt(store, env, run).await,
                _ => lost.get(run).copied(),
            };
            let Some((epoch, since)) = ended else { continue };
            self.ended_elsewhere(trace, Elsewhere { run, env, epoch, since, failed: Some("lost".to_owned()) }, now);
        }
    }

    async fn last_attempt(store: &Store, env: &str, run: &RunId) -> Option<(Epoch, Timestamp)> {
        let record = store.run_record(env, run).await.ok().flatten()?;
        Some((record.epoch, record.started_at?))
    }
}

/// An attempt of which only the store knows.
#[derive(Debug)]
pub struct Elsewhere<'a> {
    pub run: &'a RunId,
    pub env: &'a str,
    pub epoch: Epoch,
    pub since: Timestamp,
    pub failed: Option<String>,
}

fn fields_of(leased: &Leased) -> Vec<(&'static str, Value)> {
    vec![
        ("run.id", Value::from(leased.run.as_str())),
        ("run.env", Value::from(leased.env.as_str())),
        ("run.task", Value::from(leased.task.as_str())),
        ("run.queue", Value::from(leased.lane.queue())),
        ("attempt", Value::from(leased.attempt)),
    ]
}

/// Why an attempt is no success, in a word: reasons may hold what only the run's owner may read.
fn failure_of(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Succeeded { .. } => None,
        Outcome::Failed { code, .. } => Some(code.clone()),
        Outcome::Cancelled => Some("cancelled".to_owned()),
        Outcome::TimedOut => Some("timed_out".to_owned()),
        Outcome::Lost => Some("lost".to_owned()),
    }
}
