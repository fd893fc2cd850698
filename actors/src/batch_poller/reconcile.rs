//! Finds out whether the provider has a batch of unknown fate, by evidence only.

use super::drive::{CallOrStore, Drive, Step};
use super::plan::{self, Absence, Finding};
use super::submit::file_name;
use crate::provider::request::{batch_of_key, split_custom_id};
use crate::provider::result_line::{Form, ResultLine};
use crate::provider::{Listed, Polled, Provider};
use std::collections::HashSet;
use storage::failpoint::{Failpoint, reached};
use storage::model::BatchState;
use storage::store::{BatchRow, Fence};
use tracing::{info, warn};

impl Drive {
    pub(super) async fn reconcile(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        match self.look_for(row).await? {
            found @ Finding::Found { .. } => self.adopt(row, fence, found).await,
            Finding::Several(candidates) => self.tell_apart(row, fence, candidates).await,
            Finding::NotThere => {
                let following = self.parts.settings.now().following(&row.account);
                match plan::absence(row, following.settle_after, following.hold, store.now()) {
                    Absence::First { look_again_at } => {
                        store.first_absence(fence, store.now(), look_again_at).await?;
                        Ok(Step::Later)
                    }
                    Absence::TooSoon { look_again_at } | Absence::Held { look_again_at } => {
                        self.later(fence, BatchState::Unknown, look_again_at).await
                    }
                    Absence::Proven { since } => self.clear(row, fence, since).await,
                }
            }
        }
    }

    async fn look_for(&self, row: &BatchRow) -> Result<Finding, CallOrStore> {
        let listed = self.provider.list(row.intent_at.unwrap_or(row.created_at)).await?;
        let known = self.parts.store.known_provider_ids(&row.account).await?;
        reached(Failpoint::ReconcileListed);
        let known: HashSet<String> = known.into_iter().collect();
        Ok(plan::find(row, self.provider.protocol(), &listed, &known))
    }

    async fn adopt(&self, row: &BatchRow, fence: &Fence, found: Finding) -> Result<Step, CallOrStore> {
        let Finding::Found { id, provisional, create_no } = found else { return Ok(Step::Later) };
        info!(batch.id = %row.id, provider_batch_id = id, provisional, "found the batch at the provider");
        if create_no != row.create_no {
            self.parts.store.created_as(fence, create_no).await?;
        }
        self.parts.store.found(fence, &id, provisional, self.parts.store.now()).await?;
        Ok(Step::Taken)
    }

    /// Absent twice. The input file is deleted, so that a create that is still on its way can start
    /// nothing; then the last look. Only after it is the batch free to be created again. The original of a copy may have
    /// uploaded a file that the copy does not know of: it is found by its name.
    async fn clear(
        &self,
        row: &BatchRow,
        fence: &Fence,
        since: storage::model::Timestamp,
    ) -> Result<Step, CallOrStore> {
        let files = match &row.input_file_id {
            Some(file) => vec![file.clone()],
            None => self.provider.files_named(&file_name(row)).await?,
        };
        if !files.is_empty() {
            reached(Failpoint::ReconcileBeforeDelete);
            for file in files {
                self.provider.delete_file(&file).await?;
            }
            reached(Failpoint::ReconcileDeleted);
            let found = self.look_for(row).await?;
            if matches!(found, Finding::Found { .. }) {
                return self.adopt(row, fence, found).await;
            }
        }
        info!(batch.id = %row.id, "the batch is proven absent at the provider; it will be created again");
        self.parts.store.absence_proven(fence, since, self.parts.store.now()).await?;
        Ok(Step::Taken)
    }

    /// Several batches have our size. Those that have ended show in their results whose they are.
    async fn tell_apart(&self, row: &BatchRow, fence: &Fence, candidates: Vec<Listed>) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        for candidate in candidates.iter().filter(|candidate| candidate.ended) {
            match owner_of(&*self.provider, candidate).await? {
                Some(key) if key == row.wire_key => {
                    let (id, create_no) = (candidate.id.clone(), row.create_no);
                    return self.adopt(row, fence, Finding::Found { id, provisional: false, create_no }).await;
                }
                Some(_) => store.book_foreign(&row.id, &row.account, &candidate.id, store.now()).await?,
                None => {}
            }
        }
        warn!(batch.id = %row.id, candidates = candidates.len(), "several provider batches could be this one; waiting");
        let wait = self.parts.settings.now().following(&row.account).poll_every;
        self.later(fence, BatchState::Unknown, store.now() + wait).await
    }
}

/// The batch part of the key that an ended provider batch carries in its results; `None` while it shows none.
pub(crate) async fn owner_of(provider: &dyn Provider, candidate: &Listed) -> Result<Option<String>, CallOrStore> {
    let reference = match &candidate.results_ref {
        Some(reference) => reference.clone(),
        None => match provider.poll(&candidate.id).await? {
            Polled::Ended { output_ref: Some(reference), .. } => reference,
            Polled::Ended { .. } | Polled::Running { .. } | Polled::Gone => return Ok(None),
        },
    };
    let mut lines = provider.results(&reference).await?;
    let Some(line) = lines.next_line().await? else { return Ok(None) };
    let line = String::from_utf8_lossy(&line);
    let parsed = ResultLine::parse(Form::of(provider.protocol()), &line).ok();
    let key = parsed.and_then(|parsed| split_custom_id(&parsed.custom_id).map(|(key, _)| batch_of_key(key).to_owned()));
    Ok(Some(key.unwrap_or_default()))
}
