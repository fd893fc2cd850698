//! Whose a result line is: by the key that it carries; by its caller's own id, where somebody else made the batch.

use crate::provider::request::{batch_of_key, split_custom_id};
use std::collections::HashMap;
use storage::StoreError;
use storage::store::{BatchRow, Store};

/// Names read at once.
const PAGE: i64 = 5_000;

/// How the lines of one batch are told to be its own.
pub(super) enum Whose {
    ByKey,
    /// Position and pack of each request, by the id that its caller gave it.
    ByName(HashMap<String, (i64, String)>),
}

impl Whose {
    /// A batch is no larger than its provider takes, and so is what is held in memory of it.
    pub async fn are_the_lines_of(row: &BatchRow, store: &Store) -> Result<Whose, StoreError> {
        if !row.imported {
            return Ok(Whose::ByKey);
        }
        let (mut names, mut after) = (HashMap::new(), -1);
        loop {
            let page = store.names_of_batch(&row.id, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(Whose::ByName(names)) };
            after = last.pos;
            names.extend(page.into_iter().map(|name| (name.custom_id, (name.pos, name.pack))));
        }
    }

    /// The request's position in its batch, and its pack; `None` when it is not of this batch.
    pub fn request<'a>(&'a self, row: &'a BatchRow, custom_id: &str) -> Option<(i64, &'a str)> {
        match self {
            Whose::ByKey => split_custom_id(custom_id)
                .filter(|(key, pos)| batch_of_key(key) == row.wire_key && (0..row.requests).contains(pos))
                .map(|(_, pos)| (pos, row.pack.as_str())),
            Whose::ByName(names) => names.get(custom_id).map(|(pos, pack)| (*pos, pack.as_str())),
        }
    }
}
