//! A span as it is exported, and the ids of those of a run.

use serde_json::Value;
use sha2::{Digest, Sha256};
use storage::model::{Epoch, RunId, Timestamp, TraceParent};

/// Something that took time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace: u128,
    pub id: u64,
    /// None of the first of a trace.
    pub parent: Option<u64>,
    pub name: &'static str,
    pub kind: Kind,
    pub begin: Timestamp,
    pub end: Timestamp,
    /// Texts and numbers.
    pub fields: Vec<(&'static str, Value)>,
    /// Spans of other traces that it has to do with.
    pub links: Vec<TraceParent>,
    /// Why it is no success.
    pub failed: Option<String>,
}

/// Which side of a request it is, if it is of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Internal,
    Server,
    Client,
}

/// The spans of a run besides that of the request that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From accepted to let through.
    Buffer,
    /// From ready to claimed.
    Queue,
    /// From claimed to settled.
    Attempt,
    /// What an attempt asks of somebody else.
    Request,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Buffer => "buffer",
            Part::Queue => "queue",
            Part::Attempt => "attempt",
            Part::Request => "request",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Part::Buffer | Part::Queue | Part::Attempt => Kind::Internal,
            Part::Request => Kind::Client,
        }
    }
}

impl Span {
    /// A part of a run under the epoch that it happened under, as a child of the request that made the run.
    pub(super) fn of_run(
        trace: TraceParent,
        run: &RunId,
        part: Part,
        epoch: Epoch,
        (begin, end): (Timestamp, Timestamp),
    ) -> Span {
        Span {
            trace: trace.trace(),
            id: span_id(run.as_str(), part, epoch),
            parent: Some(trace.parent()),
            name: part.name(),
            kind: part.kind(),
            begin,
            // Clocks of two nodes may be apart by a little.
            end: end.max(begin),
            fields: Vec::new(),
            links: Vec::new(),
            failed: None,
        }
    }
}

/// Nothing has to be stored for it: it is the same on every node and after every start.
pub(super) fn span_id(of: &str, part: Part, epoch: Epoch) -> u64 {
    let (_, id) = ids_of(&format!("{} {} {of}", part.name(), epoch.number()));
    id
}

/// Ids of a trace and of a span that follow from a text; never 0, which is none.
pub(super) fn ids_of(text: &str) -> (u128, u64) {
    let digest = Sha256::digest(text.as_bytes());
    let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    let span = u64::try_from(number(&digest[16..24])).unwrap_or(u64::MAX);
    (number(&digest[..16]).max(1), span.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_part_of_every_attempt_has_an_id_of_its_own_that_stays() {
        let parts = [Part::Buffer, Part::Queue, Part::Attempt, Part::Request];
        let mut ids = HashSet::new();
        for run in ["run_a", "run_b"] {
            for epoch in [0, 1, 11] {
                for part in parts {
                    let id = span_id(run, part, Epoch::from_number(epoch));
                    assert!(id != 0 && ids.insert(id), "{run} {epoch} {part:?}");
                    assert_eq!(id, span_id(run, part, Epoch::from_number(epoch)));
                }
            }
        }
        // Nodes of two versions are in one tree: this must never be another.
        assert_eq!(span_id("run_a", Part::Attempt, Epoch::from_number(1)), SPAN_OF_RUN_A);
    }

    const SPAN_OF_RUN_A: u64 = 0x3ca9_4a94_4530_4231;
}
