//! The simulator's whole state: the accounts in memory, the journal and the files on disk, and the
//! questions about batches that need a look into their input.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;

use super::account::{Account, Batch, SizeKey};
use super::event::{Accepted, Dialect, Entry, Event};
use super::faults::Faults;
use super::ids;
use super::journal::Journal;
use super::outcome::Judge;
use super::progress::{Content, Phase};
use super::render::{self, Part};
use super::summary::{self, Summary};
use super::{SimConfig, SimError};

#[derive(Debug)]
pub(super) struct World {
    dir: PathBuf,
    pub latency_ms: u64,
    faults: Faults,
    journal: Mutex<Journal>,
    accounts: DashMap<String, Arc<Mutex<Account>>>,
    /// Held as long as the server lives; the operating system lets go of it when the process is killed.
    _lock: File,
}

/// A batch at one moment.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub batch: Batch,
    pub now: u64,
    pub phase: Phase,
    pub content: Content,
    /// Unknown while the input has not been checked.
    pub summary: Option<Arc<Summary>>,
}

/// State behind a poisoned lock is still whole: every change is one step.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn open(config: SimConfig) -> Result<World, SimError> {
        let dir = config.dir;
        let files = dir.join("files");
        fs::create_dir_all(&files).map_err(|source| SimError::io(&files, source))?;
        let lock = lock(&dir)?;
        let accounts: DashMap<String, Arc<Mutex<Account>>> = DashMap::new();
        let journal = Journal::open(&dir.join("journal.jsonl"), |entry| {
            let account = accounts.entry(entry.account).or_default();
            held(&account).apply(&entry.event);
        })?;
        let latency_ms = u64::try_from(config.latency.as_millis()).unwrap_or(u64::MAX);
        let world =
            World { dir, latency_ms, faults: config.faults, journal: Mutex::new(journal), accounts, _lock: lock };
        world.sweep(&files)?;
        Ok(world)
    }

    /// Removes what a kill left behind: uploads and creates that were never written to the journal.
    fn sweep(&self, files: &Path) -> Result<(), SimError> {
        let mut known = HashSet::new();
        for account in &self.accounts {
            let account = held(&account);
            known.extend(account.files().map(|file| file.id.clone()));
            for batch in account.batches() {
                let accepted = &batch.accepted;
                known.insert(accepted.input_file.clone().unwrap_or_else(|| accepted.id.clone()));
            }
        }
        let io = |source| SimError::io(files, source);
        for file in fs::read_dir(files).map_err(io)? {
            let file = file.map_err(io)?;
            if !file.file_name().to_str().is_some_and(|name| known.contains(name)) {
                fs::remove_file(file.path()).map_err(io)?;
            }
        }
        Ok(())
    }

    pub fn account(&self, id: &str) -> Arc<Mutex<Account>> {
        if let Some(account) = self.accounts.get(id) {
            return account.clone();
        }
        self.accounts.entry(id.to_owned()).or_default().clone()
    }

    /// The switches in force for an account.
    pub fn faults(&self, account: &Account) -> Faults {
        account.faults.over(&self.faults)
    }

    /// Writes an event down, then lets it happen. The caller holds the account.
    pub fn record(&self, id: &str, account: &mut Account, event: Event) -> Result<(), SimError> {
        let entry = Entry { account: id.to_owned(), event };
        held(&self.journal).append(&entry)?;
        account.apply(&entry.event);
        Ok(())
    }

    pub fn path(&self, id: &str) -> PathBuf {
        self.dir.join("files").join(id)
    }

    pub fn input(&self, batch: &Accepted) -> PathBuf {
        self.path(batch.input_file.as_deref().unwrap_or(&batch.id))
    }

    fn io<T>(&self, result: io::Result<T>) -> Result<T, SimError> {
        result.map_err(|source| SimError::io(&self.dir, source))
    }

    fn summary(&self, batch: &Batch, ran: Option<u64>) -> Result<Arc<Summary>, SimError> {
        // Held while reading, so that ten polls at once read the input once.
        let mut known = held(&batch.cache.summaries);
        if let Some((_, summary)) = known.iter().find(|(key, _)| *key == ran) {
            return Ok(summary.clone());
        }
        let judge = judge(batch, ran);
        let summary = self.io(summary::summarize(&judge, &self.input(&batch.accepted)))?;
        let summary = Arc::new(summary);
        known.push((ran, summary.clone()));
        Ok(summary)
    }

    /// Looks into the content whatever the time; what the batch will come to unless it is touched again.
    pub fn foresee(&self, batch: &Batch, now: u64) -> Result<View, SimError> {
        let whole = self.summary(batch, None)?;
        let content = Content { invalid: !whole.problems.is_empty(), any_expired: whole.expired > 0 };
        let timeline = batch.timeline();
        let summary = match timeline.ran_before_cancel() {
            Some(ran) => self.summary(batch, Some(ran))?,
            None => whole,
        };
        let phase = timeline.phase(now, content);
        Ok(View { batch: batch.clone(), now, phase, content, summary: Some(summary) })
    }

    /// The batch as its owner may see it; reads the input at most once, so not for an async thread.
    pub fn view(&self, batch: &Batch, now: u64) -> Result<View, SimError> {
        let timeline = batch.timeline();
        if now >= timeline.content_matters_at() {
            return self.foresee(batch, now);
        }
        let content = Content::default();
        let phase = timeline.phase(now, content);
        Ok(View { batch: batch.clone(), now, phase, content, summary: None })
    }

    /// The batch as its create is answered: never further than begun, however short its latency.
    pub fn begun(batch: &Batch) -> View {
        let phase = match batch.accepted.dialect {
            Dialect::Openai => Phase::Validating,
            Dialect::Anthropic => Phase::InProgress,
        };
        let (batch, now) = (batch.clone(), batch.accepted.at_ms);
        View { batch, now, phase, content: Content::default(), summary: None }
    }

    /// Streams result lines of a batch.
    pub fn render(
        &self,
        batch: &Batch,
        part: Part,
        crlf: bool,
        emit: &mut dyn FnMut(Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let judge = judge(batch, batch.timeline().ran_before_cancel());
        render::render(&judge, &self.input(&batch.accepted), part, crlf, emit)
    }

    /// How many bytes that stream has.
    pub fn size(&self, batch: &Batch, part: Part, crlf: bool) -> Result<u64, SimError> {
        let key = SizeKey { ran: batch.timeline().ran_before_cancel(), part, crlf };
        let mut known = held(&batch.cache.sizes);
        if let Some((_, size)) = known.iter().find(|(known, _)| *known == key) {
            return Ok(*size);
        }
        let mut size = 0;
        self.io(self.render(batch, part, crlf, &mut |chunk| {
            size += chunk.len() as u64;
            Ok(())
        }))?;
        known.push((key, size));
        Ok(size)
    }

    /// Deletes an uploaded or a produced file; false when there is none.
    pub fn delete_file(&self, id: &str, account_id: &str) -> Result<bool, SimError> {
        let account = self.account(account_id);
        let mut account = held(&account);
        if account.file(id).is_none() && account.produced(id).is_none() {
            return Ok(false);
        }
        let event = Event::FileDeleted { id: id.to_owned(), at_ms: ids::now_ms() };
        self.record(account_id, &mut account, event)?;
        // A batch that reads it still needs its bytes, to tell what it did.
        if !account.is_input(id) && self.path(id).exists() {
            self.io(fs::remove_file(self.path(id)))?;
        }
        Ok(true)
    }

    /// Cancels a batch that has not ended; gives it back as it was found if it has.
    pub fn cancel(&self, account_id: &str, id: &str, dialect: Dialect) -> Result<Option<Cancelled>, SimError> {
        let shared = self.account(account_id);
        let Some(found) = held(&shared).batch(id, dialect).cloned() else { return Ok(None) };
        let before = self.view(&found, ids::now_ms())?;
        let done = {
            let mut account = held(&shared);
            let Some(batch) = account.batch(id, dialect).cloned() else { return Ok(None) };
            let at_ms = ids::now_ms();
            let ended = batch.timeline().phase(at_ms, before.content).is_terminal();
            if !ended && batch.cancel.is_none() {
                let ignored = self.faults(&account).cancel_ignored == Some(true);
                let event = Event::Cancelled { id: id.to_owned(), at_ms, ignored };
                self.record(account_id, &mut account, event)?;
            }
            let now_found = account.batch(id, dialect).cloned().unwrap_or(batch);
            (now_found, ended, at_ms)
        };
        let (batch, already_ended, at_ms) = done;
        Ok(Some(Cancelled { view: self.view(&batch, at_ms)?, already_ended }))
    }
}

#[derive(Debug)]
pub(super) struct Cancelled {
    pub view: View,
    pub already_ended: bool,
}

fn judge(batch: &Batch, ran: Option<u64>) -> Judge<'_> {
    Judge { batch: &batch.accepted, ran, in_time: batch.timeline().in_time() }
}

fn lock(dir: &Path) -> Result<File, SimError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| SimError::io(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SimError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(SimError::io(&path, source)),
    }
}
