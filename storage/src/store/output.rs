//! What attempts wrote: append-only chunks, numbered without a gap per attempt and stream, readable from any
//! node, and durable once acknowledged (invariant 37).

use super::{CHUNK, Store, in_tx, on_pool};
use crate::error::StoreError;
use crate::model::{Epoch, RunId, Timestamp};
use sqlx::QueryBuilder;

/// A piece of a stream.
#[derive(Debug, Clone)]
pub struct NewChunk {
    pub run: RunId,
    pub epoch: Epoch,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    pub seq: i64,
    /// The stream's length up to and with this piece.
    pub bytes: i64,
    pub data: Vec<u8>,
    /// The stream's end: how much of it was not kept.
    pub dropped: Option<i64>,
}

/// A piece as it is read.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutputChunk {
    pub stream: String,
    pub seq: i64,
    pub bytes: i64,
    pub data: Vec<u8>,
}

/// How long a stream has become, and what of it was not kept.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OutputEnd {
    pub stream: String,
    pub bytes: i64,
    pub dropped: i64,
}

const CHUNKS: &str = "-- output_chunks
SELECT stream, seq, bytes, data FROM output_chunks
WHERE run_id = $1 AND epoch = $2 AND stream = $3 AND seq >= $4 ORDER BY seq LIMIT $5";

/// The chunk that holds the first of the last bytes that are wanted.
const TAIL_FROM: &str = "-- output_tail_from
SELECT MIN(seq) FROM output_chunks WHERE run_id = $1 AND epoch = $2 AND stream = $3 AND bytes > $4";

const LENGTH: &str = "-- output_length
SELECT MAX(bytes) FROM output_chunks WHERE run_id = $1 AND epoch = $2 AND stream = $3";

const NEXT_SEQ: &str = "-- output_next
SELECT COALESCE(MAX(seq) + 1, 0) FROM output_chunks WHERE run_id = $1 AND epoch = $2 AND stream = $3";

const ENDS: &str = "-- output_ends
SELECT stream, bytes, dropped FROM output_ends WHERE run_id = $1 AND epoch = $2";

const LAST_EPOCH: &str = "-- output_last_epoch
SELECT MAX(epoch) FROM output_chunks WHERE run_id = $1";

impl Store {
    /// Appends pieces; one that is there already is left as it is.
    pub async fn append_output(&self, chunks: &[NewChunk], now: Timestamp) -> Result<(), StoreError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let filled: Vec<&NewChunk> = chunks.iter().filter(|chunk| !chunk.data.is_empty()).collect();
        let ended: Vec<(&NewChunk, i64)> = chunks.iter().filter_map(|chunk| Some((chunk, chunk.dropped?))).collect();
        in_tx!(self, |tx| {
            for part in filled.chunks(CHUNK) {
                let mut insert =
                    QueryBuilder::<Db>::new("INSERT INTO output_chunks (run_id, epoch, stream, seq, at, bytes, data) ");
                insert.push_values(part, |mut row, chunk| {
                    row.push_bind(chunk.run.as_str())
                        .push_bind(chunk.epoch.number())
                        .push_bind(chunk.stream)
                        .push_bind(chunk.seq)
                        .push_bind(now.millis())
                        .push_bind(chunk.bytes)
                        .push_bind(chunk.data.as_slice());
                });
                insert.push(" ON CONFLICT (run_id, epoch, stream, seq) DO NOTHING");
                insert.build().persistent(false).execute(&mut *tx).await?;
            }
            for part in ended.chunks(CHUNK) {
                let mut insert =
                    QueryBuilder::<Db>::new("INSERT INTO output_ends (run_id, epoch, stream, bytes, dropped) ");
                insert.push_values(part, |mut row, (chunk, dropped)| {
                    row.push_bind(chunk.run.as_str())
                        .push_bind(chunk.epoch.number())
                        .push_bind(chunk.stream)
                        .push_bind(chunk.bytes)
                        .push_bind(*dropped);
                });
                insert.push(" ON CONFLICT (run_id, epoch, stream) DO NOTHING");
                insert.build().persistent(false).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }

    /// Pieces of a stream from `seq` on, at most `limit`.
    pub async fn output_chunks(
        &self,
        run: &RunId,
        epoch: Epoch,
        stream: &str,
        seq: i64,
        limit: i64,
    ) -> Result<Vec<OutputChunk>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(CHUNKS)
                .bind(run.as_str())
                .bind(epoch.number())
                .bind(stream)
                .bind(seq)
                .bind(limit)
                .fetch_all(pool)
                .await?
        }))
    }

    /// A stream's length in bytes so far, and the first piece that belongs to its last `tail` bytes.
    pub async fn output_tail(
        &self,
        run: &RunId,
        epoch: Epoch,
        stream: &str,
        tail: i64,
    ) -> Result<(i64, i64), StoreError> {
        let length: Option<i64> = on_pool!(self, |pool| {
            sqlx::query_scalar(LENGTH).bind(run.as_str()).bind(epoch.number()).bind(stream).fetch_one(pool).await?
        });
        let length = length.unwrap_or(0);
        let from: Option<i64> = on_pool!(self, |pool| {
            sqlx::query_scalar(TAIL_FROM)
                .bind(run.as_str())
                .bind(epoch.number())
                .bind(stream)
                .bind((length - tail).max(0))
                .fetch_one(pool)
                .await?
        });
        Ok((length, from.unwrap_or(0)))
    }

    /// The number of a stream's next piece.
    pub async fn output_next(&self, run: &RunId, epoch: Epoch, stream: &str) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_scalar(NEXT_SEQ).bind(run.as_str()).bind(epoch.number()).bind(stream).fetch_one(pool).await?
        }))
    }

    /// The streams of an attempt that have ended.
    pub async fn output_ends(&self, run: &RunId, epoch: Epoch) -> Result<Vec<OutputEnd>, StoreError> {
        Ok(on_pool!(self, |pool| {
            sqlx::query_as(ENDS).bind(run.as_str()).bind(epoch.number()).fetch_all(pool).await?
        }))
    }

    /// The latest attempt of a run that wrote anything.
    pub async fn output_epoch(&self, run: &RunId) -> Result<Option<Epoch>, StoreError> {
        let epoch: Option<i64> =
            on_pool!(self, |pool| sqlx::query_scalar(LAST_EPOCH).bind(run.as_str()).fetch_one(pool).await?);
        Ok(epoch.map(Epoch::from_number))
    }
}
