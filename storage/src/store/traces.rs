//! Of which traces runs are, for whoever records them; asked for by nobody else.

use super::{CHUNK, Store, on_pool};
use crate::error::StoreError;
use crate::model::{BatchId, Epoch, RunId, Timestamp, TraceParent};
use sqlx::QueryBuilder;
use std::collections::HashMap;

/// A run that is of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    pub trace: TraceParent,
    pub accepted_at: Timestamp,
}

const TRACED: &str = ") SELECT r.id, r.traceparent, r.accepted_at FROM wanted w
CROSS JOIN run_records r WHERE r.env = w.env AND r.id = w.id AND r.traceparent IS NOT NULL";

const LOST: &str = "-- lost_attempts
SELECT run_id, epoch, leased_at FROM attempts WHERE state = 'lost' AND run_id IN (";

/// Of the first requests only: a batch may have a hundred thousand, and none of a trace.
const OF_BATCH: &str = "-- traces_of_batch
SELECT r.traceparent FROM attempts a JOIN run_records r ON r.env = $2 AND r.id = a.run_id
WHERE a.batch_id = $1 AND a.batch_pos < $3 AND r.traceparent IS NOT NULL ORDER BY a.batch_pos";

impl Store {
    /// Those of some runs that are of a trace, each named with its env, by run.
    pub async fn traced(&self, runs: &[(&str, &RunId)]) -> Result<HashMap<RunId, Traced>, StoreError> {
        let mut traced = HashMap::new();
        for chunk in runs.chunks(CHUNK) {
            let found: Vec<(String, String, i64)> = on_pool!(self, |pool| {
                let mut select = QueryBuilder::<Db>::new("WITH wanted (env, id) AS (");
                select.push_values(chunk, |mut pair, (env, run)| {
                    pair.push_bind(*env).push_bind(run.as_str());
                });
                select.push(TRACED);
                select.build_query_as().persistent(false).fetch_all(pool).await?
            });
            traced.extend(found.into_iter().filter_map(|(id, trace, accepted_at)| {
                let trace = TraceParent::parse(&trace)?;
                Some((RunId::from_text(id), Traced { trace, accepted_at: Timestamp::from_millis(accepted_at) }))
            }));
        }
        Ok(traced)
    }

    /// The last attempt of each of some runs that was lost, and since when it was held.
    pub async fn lost_attempts(&self, runs: &[&RunId]) -> Result<HashMap<RunId, (Epoch, Timestamp)>, StoreError> {
        let mut lost: HashMap<RunId, (Epoch, Timestamp)> = HashMap::new();
        for chunk in runs.chunks(CHUNK) {
            let found: Vec<(String, i64, i64)> = on_pool!(self, |pool| {
                let mut select = QueryBuilder::<Db>::new(LOST);
                let mut list = select.separated(", ");
                for run in chunk {
                    list.push_bind(run.as_str());
                }
                select.push(") ORDER BY run_id, epoch");
                select.build_query_as().persistent(false).fetch_all(pool).await?
            });
            lost.extend(found.into_iter().map(|(run, epoch, since)| {
                (RunId::from_text(run), (Epoch::from_number(epoch), Timestamp::from_millis(since)))
            }));
        }
        Ok(lost)
    }

    /// The traces of a batch's runs, as far as they are among its first `requests`.
    pub async fn traces_of_batch(
        &self,
        batch: &BatchId,
        env: &str,
        requests: i64,
    ) -> Result<Vec<TraceParent>, StoreError> {
        let found: Vec<String> = on_pool!(self, |pool| {
            sqlx::query_scalar(OF_BATCH).bind(batch.as_str()).bind(env).bind(requests).fetch_all(pool).await?
        });
        Ok(found.iter().filter_map(|text| TraceParent::parse(text)).collect())
    }
}
