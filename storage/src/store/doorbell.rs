//! Tells other nodes that there is something to look at, and hears when they do. What is told is a hint: whoever
//! misses it finds the same at its next scan. There is nobody to tell on SQLite.

use super::hot::Hot;
use super::open::pool_options;
use super::{Pools, Store};
use crate::error::StoreError;
use sqlx::postgres::PgListener;

const CHANNEL: &str = "tidegate";

/// An ear at the door of the database.
pub struct Bell(PgListener);

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// What somebody has told.
    Told(String),
    /// The connection was lost and is there again; whatever was told meanwhile is lost too.
    Missed,
}

impl Store {
    /// Tells all nodes, this one too. At most some thousand bytes.
    pub async fn ring(&self, hint: &str) -> Result<(), StoreError> {
        let Pools::Postgres { hot, .. } = &self.inner.pools else { return Ok(()) };
        let ring = async |connection: &mut sqlx::PgConnection| {
            // A notification is a commit, and all who notify wait for each other's: not for a disk, for a hint.
            sqlx::query("SELECT set_config('synchronous_commit', 'off', false), pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(hint)
                .execute(connection)
                .await?;
            Ok(())
        };
        hot.on(Hot::Ring, ring).await
    }

    /// Begins to listen, on a connection of its own; `None` where nobody else can have anything to tell.
    pub async fn bell(&self) -> Result<Option<Bell>, StoreError> {
        let Pools::Postgres { hot, .. } = &self.inner.pools else { return Ok(None) };
        let options = hot.options().clone().application_name("tidegate doorbell");
        let pool = pool_options().max_connections(1).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(Bell(listener)))
    }
}

impl Bell {
    /// Returns at the next ring. An error says that the database is away; call again later.
    pub async fn heard(&mut self) -> Result<Heard, StoreError> {
        Ok(match self.0.try_recv().await? {
            Some(notification) => Heard::Told(notification.payload().to_owned()),
            None => Heard::Missed,
        })
    }
}
