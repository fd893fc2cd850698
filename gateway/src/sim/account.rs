//! Everything one API key owns, rebuilt by applying journal events; each change is an event first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use super::event::{Accepted, Dialect, Event, Fate, StoredFile};
use super::faults::Faults;
use super::ids;
use super::progress::{Cancel, Content, Timeline};
use super::render::Part;
use super::summary::Summary;

/// A batch as it is now; cloning is cheap.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub accepted: Arc<Accepted>,
    pub cancel: Option<Cancel>,
    pub deleted: bool,
    pub input_deleted_at: Option<u64>,
    pub cache: Arc<Cache>,
}

/// What was once found out about a batch's content and need not be found out again.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// By how many items ran before a cancel.
    pub summaries: Mutex<Vec<(Option<u64>, Arc<Summary>)>>,
    pub sizes: Mutex<Vec<(SizeKey, u64)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeKey {
    pub ran: Option<u64>,
    pub part: Part,
    pub crlf: bool,
}

impl Batch {
    pub fn timeline(&self) -> Timeline {
        Timeline {
            dialect: self.accepted.dialect,
            accepted_at: self.accepted.at_ms,
            latency: self.accepted.latency_ms,
            requests: self.accepted.requests,
            fate: self.accepted.fate,
            cancel: self.cancel,
            input_deleted_at: self.input_deleted_at,
        }
    }

    pub fn output_id(&self) -> String {
        ids::derived(&self.accepted.id, "output")
    }

    pub fn error_id(&self) -> String {
        ids::derived(&self.accepted.id, "error")
    }
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub faults: Faults,
    /// How often each "first k" switch was used up.
    used: BTreeMap<String, u64>,
    files: Vec<StoredFile>,
    file_at: HashMap<String, usize>,
    /// When files were deleted, those that batches produced included.
    deleted: HashMap<String, u64>,
    batches: Vec<Batch>,
    batch_at: HashMap<String, usize>,
    /// The files that batches produce.
    derived: HashMap<String, (usize, Part)>,
    pub creates: u64,
    pub uploads: u64,
    /// Requests that were called by themselves, and the digests of those that were billed.
    pub calls: u64,
    pub called: Vec<String>,
}

impl Account {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::FileStored { file, fault } => {
                self.uploads += 1;
                self.use_up(fault.as_slice());
                self.file_at.insert(file.id.clone(), self.files.len());
                self.files.push(file.clone());
            }
            Event::FileDeleted { id, at_ms } => self.delete_file(id, *at_ms),
            Event::Create { faults, batch, .. } => {
                self.creates += 1;
                self.use_up(faults);
                if let Some(batch) = batch {
                    self.add(batch);
                }
            }
            Event::Straggled { batch, faults } => {
                self.use_up(faults);
                self.add(batch);
            }
            Event::Cancelled { id, at_ms, ignored } => {
                if let Some(batch) = self.batch_mut(id) {
                    batch.cancel = Some(Cancel { at: *at_ms, ignored: *ignored });
                }
            }
            Event::BatchDeleted { id, .. } => {
                if let Some(batch) = self.batch_mut(id) {
                    batch.deleted = true;
                }
            }
            Event::FaultsSet { faults } => {
                self.faults = (**faults).clone();
                self.used.clear();
            }
            Event::FaultUsed { fault } => self.use_up(std::slice::from_ref(fault)),
            Event::Called { sha, billed, fault, .. } => {
                self.calls += 1;
                self.use_up(fault.as_slice());
                if *billed {
                    self.called.push(sha.clone());
                }
            }
        }
    }

    fn use_up(&mut self, faults: &[String]) {
        for fault in faults {
            *self.used.entry(fault.clone()).or_default() += 1;
        }
    }

    fn add(&mut self, accepted: &Accepted) {
        let at = self.batches.len();
        let batch = Batch {
            accepted: Arc::new(accepted.clone()),
            cancel: None,
            deleted: false,
            input_deleted_at: None,
            cache: Arc::default(),
        };
        if accepted.dialect == Dialect::Openai {
            self.derived.insert(batch.output_id(), (at, Part::Output));
            self.derived.insert(batch.error_id(), (at, Part::Errors));
        }
        self.batch_at.insert(accepted.id.clone(), at);
        self.batches.push(batch);
    }

    fn delete_file(&mut self, id: &str, at_ms: u64) {
        self.deleted.insert(id.to_owned(), at_ms);
        for batch in &mut self.batches {
            if batch.accepted.input_file.as_deref() == Some(id) {
                batch.input_deleted_at = Some(at_ms);
            }
        }
    }

    fn batch_mut(&mut self, id: &str) -> Option<&mut Batch> {
        self.batch_at.get(id).map(|at| &mut self.batches[*at])
    }

    /// Whether a "first k" switch still has something to do.
    pub fn has_left(&self, name: &str, first: Option<u64>) -> bool {
        self.used.get(name).copied().unwrap_or_default() < first.unwrap_or_default()
    }

    /// Bytes of the input of batches that will run and have not ended.
    pub fn bytes_in_flight(&self, now: u64) -> u64 {
        let runs =
            |batch: &&Batch| batch.accepted.fate != Fate::TokenLimit && batch.timeline().end(Content::default()) > now;
        let inputs = self.batches.iter().filter(runs).filter_map(|batch| batch.accepted.input_file.as_deref());
        inputs.filter_map(|id| self.file_at.get(id)).map(|at| self.files[*at].bytes).sum()
    }

    /// An uploaded file that was not deleted.
    pub fn file(&self, id: &str) -> Option<&StoredFile> {
        let at = self.file_at.get(id).filter(|_| !self.is_deleted(id))?;
        Some(&self.files[*at])
    }

    /// The batch that produces this file, and which of its parts it is.
    pub fn produced(&self, id: &str) -> Option<(Batch, Part)> {
        let (at, part) = self.derived.get(id).filter(|_| !self.is_deleted(id))?;
        Some((self.batches[*at].clone(), *part))
    }

    pub fn is_deleted(&self, id: &str) -> bool {
        self.deleted.contains_key(id)
    }

    pub fn is_input(&self, id: &str) -> bool {
        self.batches.iter().any(|batch| batch.accepted.input_file.as_deref() == Some(id))
    }

    pub fn files(&self) -> impl Iterator<Item = &StoredFile> {
        self.files.iter().filter(|file| !self.is_deleted(&file.id))
    }

    pub fn batch(&self, id: &str, dialect: Dialect) -> Option<&Batch> {
        let batch = &self.batches[*self.batch_at.get(id)?];
        (batch.accepted.dialect == dialect && !batch.deleted).then_some(batch)
    }

    /// Every batch ever accepted, oldest first.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// What a list answer may show at `now`, newest first.
    pub fn listed(&self, dialect: Dialect, now: u64) -> Vec<Batch> {
        let shown = |batch: &&Batch| {
            let accepted = &batch.accepted;
            let from = accepted.at_ms.saturating_add(accepted.faults.hide_from_list_ms.unwrap_or_default());
            accepted.dialect == dialect && !batch.deleted && now >= from
        };
        self.batches.iter().rev().filter(shown).cloned().collect()
    }
}
