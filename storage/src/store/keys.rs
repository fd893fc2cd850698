//! API keys: digests with their env and scopes. The keys themselves are never stored.

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::Timestamp;

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ApiKey {
    pub id: String,
    pub env: String,
    pub name: String,
    pub sha256: String,
    /// Words divided by commas.
    pub scopes: String,
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
    pub last_used_at: Option<i64>,
}

const INSERT: &str = "-- insert_key
INSERT INTO api_keys (id, env, name, sha256, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";

const KEY: &str = "-- key
SELECT id, env, name, sha256, scopes, created_at, expires_at, revoked_at, last_used_at FROM api_keys WHERE id = $1";

const KEYS: &str = "-- keys
SELECT id, env, name, sha256, scopes, created_at, expires_at, revoked_at, last_used_at FROM api_keys
WHERE id > $1 AND ($2 = '' OR env = $2) ORDER BY id LIMIT $3";

const REVOKE: &str = "-- revoke_key
UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";

const EXPIRE: &str = "-- expire_key
UPDATE api_keys SET expires_at = $2 WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)";

const USED: &str = "-- key_used
UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)";

const ANY: &str = "-- any_key
SELECT COUNT(*) FROM (SELECT 1 FROM api_keys LIMIT 1) AS found";

const ADD_SECRET: &str = "-- add_secret
INSERT INTO store_secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const SECRET: &str = "-- secret
SELECT value FROM store_secrets WHERE name = $1";

impl Store {
    /// A secret that all nodes share; the first one to ask makes it `fresh`.
    pub async fn secret(&self, name: &str, fresh: &str) -> Result<String, StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(ADD_SECRET).bind(name).bind(fresh).execute(&mut *tx).await?;
        });
        Ok(on_pool!(self, |pool| sqlx::query_scalar(SECRET).bind(name).fetch_one(pool).await?))
    }

    pub async fn insert_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(INSERT)
                .bind(&key.id)
                .bind(&key.env)
                .bind(&key.name)
                .bind(&key.sha256)
                .bind(&key.scopes)
                .bind(key.created_at)
                .bind(key.expires_at)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    pub async fn key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_as(KEY).bind(id).fetch_optional(pool).await?))
    }

    /// Keys by id, those after `after`, of one env if it is given.
    pub async fn keys(&self, env: Option<&str>, after: &str, limit: i64) -> Result<Vec<ApiKey>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(KEYS).bind(after).bind(env.unwrap_or("")).bind(limit).fetch_all(pool).await?
        }))
    }

    /// Revokes a key; false when it was revoked already or is not there.
    pub async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError> {
        let changed =
            in_tx!(self, |tx| sqlx::query(REVOKE).bind(id).bind(now.millis()).execute(&mut *tx).await?.rows_affected());
        Ok(changed == 1)
    }

    /// Lets a key end at a time, unless it ends sooner by itself.
    pub async fn expire_key(&self, id: &str, at: Timestamp) -> Result<bool, StoreError> {
        let changed =
            in_tx!(self, |tx| sqlx::query(EXPIRE).bind(id).bind(at.millis()).execute(&mut *tx).await?.rows_affected());
        Ok(changed == 1)
    }

    /// Remembers that a key was used, unless that was remembered after `unless_after` already.
    pub async fn key_used(&self, id: &str, now: Timestamp, unless_after: Timestamp) -> Result<(), StoreError> {
        in_tx!(self, |tx| {
            sqlx::query(USED).bind(id).bind(now.millis()).bind(unless_after.millis()).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Whether there is any key at all.
    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        let found: i64 = on_pool!(self, |pool| sqlx::query_scalar(ANY).fetch_one(pool).await?);
        Ok(found > 0)
    }
}
