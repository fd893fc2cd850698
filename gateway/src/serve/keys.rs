//! The keys of the store, for the gate: looked up there, and their use remembered there.

use crate::http::keys::{Digest, FindKey, Finding, Gate, KeyId, StoredKey};
use actors::runs::RunParts;
use dashmap::DashSet;
use std::sync::Arc;
use std::time::Duration;
use storage::model::{SystemClock, Timestamp};
use storage::store::ApiKey;
use tracing::debug;

/// The use of a key is remembered at most once within this.
const USE_EVERY: Duration = Duration::from_secs(60);

/// Lets callers in: all of them, or those with a key that the store knows.
pub(super) fn gate(checked: bool, runs: &RunParts) -> Gate {
    if !checked {
        return Gate::open();
    }
    Gate::with_keys(Arc::new(KeysOfStore { runs: runs.clone(), due: DashSet::new() }), Arc::new(SystemClock))
}

struct KeysOfStore {
    runs: RunParts,
    /// Keys whose last use, as it was when they were looked up, is long ago. Only real keys come in here.
    due: DashSet<KeyId>,
}

impl FindKey for KeysOfStore {
    fn find(&self, id: KeyId) -> Finding<'_> {
        Box::pin(async move {
            let wanted = id.as_str().to_owned();
            let found = self.runs.ask(move |runs| async move { runs.store.key(&wanted).await }).await?;
            let Some(row) = found else { return Ok(None) };
            let before = self.runs.store.now() - USE_EVERY;
            if row.last_used_at.is_none_or(|at| Timestamp::from_millis(at) < before) {
                self.due.insert(id);
            }
            Ok(stored_key(&row))
        })
    }

    fn used(&self, id: &KeyId) {
        let Some(id) = self.due.remove(id) else { return };
        let store = self.runs.store.clone();
        self.runs.runtime.spawn(async move {
            let now = store.now();
            if let Err(error) = store.key_used(id.as_str(), now, now - USE_EVERY).await {
                // It is remembered the next time; nobody waits for it.
                debug!(key.id = %id, %error, "the use of a key is not remembered");
            }
        });
    }
}

/// A row that is no key any more, because a newer version wrote it, lets nobody in.
fn stored_key(row: &ApiKey) -> Option<StoredKey> {
    Some(StoredKey {
        sha256: digest(&row.sha256)?,
        env: row.env.parse().ok()?,
        scopes: row.scopes.parse().ok()?,
        expires_at: row.expires_at.map(Timestamp::from_millis),
        revoked_at: row.revoked_at.map(Timestamp::from_millis),
    })
}

/// A digest as it is stored: 64 hex digits.
pub(super) fn digest(hex: &str) -> Option<Digest> {
    let mut bytes = Digest::default();
    if hex.len() != bytes.len() * 2 {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
