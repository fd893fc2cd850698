//! What carriers say of attempts, and what comes of it.

use crate::model::{Basin, Epoch, Lane, RunId, RunState, Timestamp};
use std::borrow::Cow;
use std::collections::HashSet;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Succeeded,
    /// Not to be tried again.
    Failed,
    TimedOut,
    Cancelled,
    /// To be tried again at this time, if attempts are left.
    Retry(Timestamp),
    /// Its carrier is gone; it counts, and is tried again at once if attempts are left.
    Lost,
    /// Its carrier gave it back untouched, or was cut off from the store: it does not count.
    Declined,
}

/// One attempt's end.
#[derive(Debug, Clone)]
pub struct RunVerdict {
    pub run: RunId,
    pub epoch: Epoch,
    pub ending: Ending,
    pub code: Option<String>,
    pub reason: Option<String>,
    /// Raw JSON that the run leaves behind.
    pub output: Option<String>,
    pub started_at: Option<Timestamp>,
}

/// What a verdict did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub run: RunId,
    pub env: String,
    /// `None` when the attempt was not this carrier's any more: nothing was changed.
    pub state: Option<RunState>,
    /// Where it waited, and waits again if it is to be tried again.
    pub basin: Basin,
    pub lane: Lane,
}

/// The first verdict on each attempt, in the one order in which all callers take leases, without what
/// PostgreSQL's text cannot hold: what a carrier has to say must not keep its run from ending.
pub(super) fn first_on_each(verdicts: &[RunVerdict]) -> Vec<Cow<'_, RunVerdict>> {
    let mut seen = HashSet::with_capacity(verdicts.len());
    let mut heard: Vec<_> = verdicts
        .iter()
        .filter(|verdict| seen.insert((verdict.run.as_str(), verdict.epoch)))
        .map(RunVerdict::without_nul)
        .collect();
    heard.sort_unstable_by(|a, b| (&a.run, a.epoch).cmp(&(&b.run, b.epoch)));
    heard
}

impl RunVerdict {
    fn without_nul(&self) -> Cow<'_, RunVerdict> {
        let has_nul = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\0'));
        if ![&self.code, &self.reason, &self.output].into_iter().any(has_nul) {
            return Cow::Borrowed(self);
        }
        let clean = |text: &Option<String>| text.as_ref().map(|text| text.replace('\0', "\u{fffd}"));
        let (code, reason, output) = (clean(&self.code), clean(&self.reason), clean(&self.output));
        Cow::Owned(RunVerdict { code, reason, output, ..self.clone() })
    }
}
