//! Whether the database answers at all, seen from beside all other work.

use super::hot::Hot;
use super::{Pools, Store};
use crate::error::StoreError;
use sqlx::Executor;

impl Store {
    /// Returns once the database has answered, on a connection that no other work ever holds up. One connection
    /// that broke says nothing about the database: another is made before it counts as a failure. A SQLite file
    /// is no server that could be away.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let Pools::Postgres { hot, .. } = &self.inner.pools else { return Ok(()) };
        let ask = async |connection: &mut sqlx::PgConnection| {
            connection.execute("SELECT 1").await?;
            Ok(())
        };
        match hot.on(Hot::Probe, ask).await {
            Ok(()) => Ok(()),
            Err(_) => hot.on(Hot::Probe, ask).await,
        }
    }

    /// The database was away: connections from before are replaced before they are used, so that none of them
    /// fails the first work after it. Pools test theirs by themselves.
    pub fn distrust_connections(&self) {
        if let Pools::Postgres { hot, .. } = &self.inner.pools {
            hot.distrust();
        }
    }

    /// Connections of the pool that are in use, and those that wait for one. What a SQLite file is written with, and
    /// what has a connection of its own, is in no pool.
    pub fn pool_connections(&self) -> (u32, u32) {
        let (open, idle) = match &self.inner.pools {
            Pools::Sqlite { readers, .. } => (readers.size(), readers.num_idle()),
            Pools::Postgres { pool, .. } => (pool.size(), pool.num_idle()),
        };
        let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(open);
        (open - idle, idle)
    }

    pub fn is_closed(&self) -> bool {
        match &self.inner.pools {
            Pools::Sqlite { writer, .. } => writer.is_closed(),
            Pools::Postgres { pool, .. } => pool.is_closed(),
        }
    }
}
