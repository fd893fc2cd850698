//! Duplicates: provider batches that a late create of ours made after its absence had been proven.

use crate::batch_poller::CallOrStore;
use crate::metrics::DUPLICATE_BATCHES;
use crate::parts::Parts;
use crate::provider::request::batch_of_key;
use crate::provider::{Listed, Protocol, Provider};
use std::collections::HashSet;
use storage::model::{BatchId, BatchState};
use storage::store::BatchRow;
use tracing::error;

/// Looks for duplicates of every batch that was created more than once, books them and cancels them; in a dry run it
/// only counts them.
pub(super) async fn sweep(parts: &Parts, dry_run: bool) -> Result<u64, CallOrStore> {
    let (mut found, mut open_ones) = (0, HashSet::new());
    for row in parts.store.created_twice(parts.settings.now().pool.as_deref()).await? {
        let Some(provider) = parts.provider_of(&row.account) else { continue };
        let listed = provider.list(row.created_at).await?;
        // Asked after the listing and before what is known: a batch of ours that was listed is either known by
        // now, or its create is still without a stored answer. Then what was listed may be just that create.
        let Some(row) = parts.store.batch(&row.id).await? else { continue };
        if matches!(row.state, BatchState::Planned | BatchState::Submitting | BatchState::Unknown) {
            continue;
        }
        let creating = parts.store.lane_is_busy(&row.account, &BatchId::from_text("")).await?;
        let known: HashSet<String> = parts.store.known_provider_ids(&row.account).await?.into_iter().collect();
        for candidate in listed.into_iter().filter(|candidate| !known.contains(&candidate.id)) {
            if is_ours(parts, &*provider, &row, &candidate, creating).await? {
                if dry_run {
                    found += 1;
                    continue;
                }
                let requests = candidate.requests.unwrap_or(row.requests);
                let now = parts.store.now();
                if parts.store.book_stray(&row.id, &row.account, &candidate.id, requests, now).await? {
                    error!(batch.id = %row.id, provider_batch_id = candidate.id, "the provider has this batch twice");
                    metrics::counter!(DUPLICATE_BATCHES).increment(1);
                    found += 1;
                }
            }
        }
        let open = parts.store.open_strays(&row.account).await?;
        if dry_run {
            open_ones.extend(open.into_iter().map(|stray| stray.provider_batch_id));
            continue;
        }
        for stray in open {
            provider.cancel(&stray.provider_batch_id).await?;
            parts.store.stray_cancelled(&stray.account, &stray.provider_batch_id).await?;
        }
    }
    Ok(found + open_ones.len() as u64)
}

/// By key where there is metadata; else by the custom ids of an ended batch of the same size, or, in an
/// account that nobody else uses, by being there at all while no create of ours is under way.
async fn is_ours(
    parts: &Parts,
    provider: &dyn Provider,
    row: &BatchRow,
    candidate: &Listed,
    creating: bool,
) -> Result<bool, CallOrStore> {
    match provider.protocol() {
        Protocol::OpenAi => Ok(candidate.key.as_deref().is_some_and(|key| batch_of_key(key) == row.wire_key)),
        Protocol::Anthropic if candidate.requests != Some(row.requests) => Ok(false),
        Protocol::Anthropic if candidate.ended => {
            let owner = crate::batch_poller::owner_of(provider, candidate).await?;
            Ok(owner.as_deref() == Some(row.wire_key.as_str()))
        }
        Protocol::Anthropic => Ok(parts.settings.now().following(&row.account).exclusive && !creating),
    }
}
