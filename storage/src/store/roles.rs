//! What one node at a time does for all: a role is a row, held for as long as its holder's node lease runs.

use super::{Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{Epoch, Timestamp};

const HELD: &str = "-- held_role
SELECT epoch FROM roles WHERE name = $1 AND holder = $2";

/// Taken by the first who asks, and again by the first who asks once its holder is gone, lapsed or draining. Two who
/// ask at once come one after the other, and the second finds the first alive.
const HOLD: &str = "-- hold_role
INSERT INTO roles (name, holder, epoch) VALUES ($1, $2, 1)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = roles.epoch + 1
WHERE roles.holder NOT IN (SELECT id FROM nodes WHERE state = 'live' AND lease_until >= $3)
RETURNING epoch";

impl Store {
    /// Takes or keeps a role for this node. `None` while another live node has it. Keeping one writes nothing.
    pub async fn hold_role(&self, name: &str, now: Timestamp) -> Result<Option<Epoch>, StoreError> {
        let node = self.node().as_str();
        let held: Option<i64> =
            on_pool!(self, |pool| sqlx::query_scalar(HELD).bind(name).bind(node).fetch_optional(pool).await?);
        if let Some(epoch) = held {
            return Ok(Some(Epoch::from_number(epoch)));
        }
        let epoch: Option<i64> = in_tx!(self, |tx| {
            sqlx::query_scalar(HOLD).bind(name).bind(node).bind(now.millis()).fetch_optional(&mut *tx).await?
        });
        Ok(epoch.map(Epoch::from_number))
    }
}
