//! The bill: what every accepted batch costs or will cost, and which items were bought more than once.
//!
//! It is pessimistic: a batch under way counts for everything it will bill if nobody touches it.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use super::SimError;
use super::account::Batch;
use super::event::{Answer, Dialect};
use super::ids::{self, Sha};
use super::lines;
use super::outcome::Judge;
use super::world::{View, World, held};

#[derive(Debug, Serialize)]
pub(super) struct Ledger {
    creates: u64,
    batches: Vec<BatchLine>,
    billed_items: u64,
    items_billed_total: u64,
    distinct_items: u64,
    billed_twice: Vec<Doubled>,
    uploads: u64,
    calls: u64,
    calls_billed: u64,
}

#[derive(Debug, Serialize)]
struct BatchLine {
    id: String,
    status: &'static str,
    dialect: Dialect,
    accepted_at_ms: u64,
    requests: u64,
    key: String,
    answer: Answer,
    billed: u64,
}

/// An item that was billed more than once.
#[derive(Debug, Serialize)]
struct Doubled {
    sha: String,
    times: u32,
}

#[derive(Debug, Serialize)]
struct ItemLine<'a> {
    batch: &'a str,
    custom_id: &'a str,
    sha: String,
    outcome: &'a str,
    billed: bool,
}

impl World {
    /// The account's ledger; reads every input, so not for an async thread.
    pub fn ledger(&self, account_id: &str) -> Result<Ledger, SimError> {
        let (creates, uploads, calls, called, batches) = {
            let shared = self.account(account_id);
            let account = held(&shared);
            (account.creates, account.uploads, account.calls, account.called.clone(), account.batches().to_vec())
        };
        let now = ids::now_ms();
        let mut times: HashMap<Sha, u32> = HashMap::new();
        for sha in called.iter().filter_map(|hex| ids::unhex(hex)) {
            *times.entry(sha).or_default() += 1;
        }
        let mut lines = Vec::new();
        for batch in &batches {
            let view = self.foresee(batch, now)?;
            lines.push(batch_line(&view));
            let counted = self.each_item(&view, |_, _, sha, billed| {
                if billed {
                    *times.entry(*sha).or_default() += 1;
                }
                Ok(())
            });
            counted.map_err(|source| SimError::io(self.input(&batch.accepted), source))?;
        }
        let items_billed_total = times.values().map(|times| u64::from(*times)).sum();
        let mut billed_twice: Vec<Doubled> = times
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(sha, times)| Doubled { sha: ids::hex(sha), times: *times })
            .collect();
        billed_twice.sort_by(|a, b| a.sha.cmp(&b.sha));
        Ok(Ledger {
            creates,
            billed_items: lines.iter().map(|line| line.billed).sum(),
            batches: lines,
            items_billed_total,
            distinct_items: times.len() as u64,
            billed_twice,
            uploads,
            calls,
            calls_billed: called.len() as u64,
        })
    }

    /// Streams one line for every item of every batch of the account.
    pub fn ledger_items(&self, account_id: &str, emit: &mut dyn FnMut(Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let batches = held(&self.account(account_id)).batches().to_vec();
        let mut chunk = Vec::new();
        for batch in &batches {
            let view = self.foresee(batch, ids::now_ms()).map_err(io::Error::other)?;
            self.each_item(&view, |custom_id, outcome, sha, billed| {
                let batch = &batch.accepted.id;
                let line = ItemLine { batch, custom_id, sha: ids::hex(sha), outcome, billed };
                serde_json::to_writer(&mut chunk, &line)?;
                chunk.write_all(b"\n")?;
                if chunk.len() < 1 << 16 {
                    return Ok(());
                }
                emit(std::mem::take(&mut chunk))
            })?;
        }
        if chunk.is_empty() { Ok(()) } else { emit(chunk) }
    }

    /// Calls `each` with custom id, outcome, digest and whether it is billed.
    fn each_item(&self, view: &View, mut each: impl FnMut(&str, &str, &Sha, bool) -> io::Result<()>) -> io::Result<()> {
        let batch = &view.batch;
        let timeline = batch.timeline();
        let failed = fails(view);
        let judge = Judge { batch: &batch.accepted, ran: timeline.ran_before_cancel(), in_time: timeline.in_time() };
        lines::items(&batch.accepted, &self.input(&batch.accepted), |index, _, item| {
            let Ok(item) = item else { return Ok(()) };
            let outcome = judge.outcome(index, &item);
            let name = if failed { "not_run" } else { outcome.name() };
            each(&item.custom_id, name, &item.sha, !failed && outcome.is_billed())
        })
    }
}

fn fails(view: &View) -> bool {
    view.batch.timeline().failure(view.content).is_some()
}

fn batch_line(view: &View) -> BatchLine {
    let accepted = &view.batch.accepted;
    let summary = view.summary.as_deref();
    BatchLine {
        id: accepted.id.clone(),
        status: status(&view.batch, view),
        dialect: accepted.dialect,
        accepted_at_ms: accepted.at_ms,
        requests: accepted.requests,
        key: key(&view.batch, summary.map_or("", |summary| &summary.prefix)),
        answer: accepted.answer,
        billed: summary.filter(|_| !fails(view)).map_or(0, |summary| summary.succeeded),
    }
}

/// The status in the words of the batch's own vendor.
fn status(batch: &Batch, view: &View) -> &'static str {
    match (batch.accepted.dialect, view.phase.name()) {
        (Dialect::Anthropic, "cancelling") => "canceling",
        (Dialect::Anthropic, _) if view.phase.is_terminal() => "ended",
        (Dialect::Anthropic, _) => "in_progress",
        (Dialect::Openai, name) => name,
    }
}

/// How the sender marked the batch: in its metadata, or by what its custom ids have in common.
fn key(batch: &Batch, prefix: &str) -> String {
    let metadata = batch.accepted.metadata.as_ref();
    let marked = metadata.and_then(|metadata| metadata.get("tidegate_key")?.as_str());
    marked.unwrap_or(prefix).to_owned()
}
