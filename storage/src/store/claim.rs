//! Opens a batch: claims its runs, writes its manifest, requests and key, and reserves its money, all in one
//! transaction. A batch that is not opened here does not exist; what is claimed here is claimed by nobody else.

use super::canaries::TRY_CANARY;
use super::{Store, in_tx, log_batch, on_pool};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reached};
use crate::model::{BatchId, Ceilings, Epoch, JobId, Mode, Money, Source, Timestamp};

/// How large one provider batch may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_requests: i64,
    /// Bytes of the whole input as the provider sees it.
    pub max_bytes: i64,
    /// Bytes of the request bodies alone; what a provider's queue has room for.
    pub max_bodies: i64,
    /// Bytes that the envelope adds to each request's body.
    pub envelope_bytes: i64,
}

/// Whose runs to claim, and under which name.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    pub job: &'a JobId,
    pub job_epoch: Epoch,
    pub batch: &'a BatchId,
    /// ULID that goes wherever the provider echoes it.
    pub wire_key: &'a str,
    pub limits: Limits,
    pub mode: Mode,
    pub price_version: &'a str,
    /// What may be spent in a day, besides what the job's own cap allows.
    pub day_caps: &'a [DayCap],
    pub now: Timestamp,
}

/// Most that batches may cost which are made in one day (UTC), by what they reserve until they are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayCap {
    /// Of one env; `None` of all together.
    pub env: Option<String>,
    pub max: Money,
}

/// What became of the wish for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    Batch {
        epoch: Epoch,
        requests: i64,
    },
    /// Nothing of this round is left to claim.
    NothingQueued,
    /// The provider's queue is full, or a day's cap is reached; ask again after this time.
    Held {
        until: Timestamp,
    },
    /// The next batch could pass the spend cap.
    OverCap {
        needs: Money,
        left: Money,
    },
    /// The job is not running under this epoch any more.
    NotDriven,
}

#[derive(sqlx::FromRow)]
struct Job {
    env: String,
    pool: String,
    source: String,
    round: i64,
    scope: String,
    ceilings: String,
    hold_until: i64,
    learned_max_requests: Option<i64>,
}

#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Queued {
    seq: i64,
    bytes: i64,
    reserve_nanos: Option<i64>,
}

/// The runs of a batch: a prefix of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    requests: i64,
    bytes: i64,
    /// Most it can cost; `None` when one of its runs has no known price.
    reserve: Option<Money>,
    last_seq: i64,
}

const JOB: &str = "-- claim_job
SELECT env, pool, source, round, scope, ceilings, hold_until, learned_max_requests FROM jobs
WHERE id = $1 AND epoch = $2 AND state = 'running'";

/// Between two rounds nothing is claimed: a batch belongs to the round that counts it.
const ROUND_IS_OPEN: &str = "-- round_is_open
SELECT COUNT(*) FROM job_rounds WHERE job_id = $1 AND round = $2 AND ended_at IS NULL";

const MONEY: &str = "-- claim_money
SELECT reserved_nanos, spent_nanos FROM pools WHERE name = $1";

/// Whoever claims under a day's cap holds its row, so that of two who look at once one sees the other.
const HOLD_CAP: &str = "-- hold_day_cap
INSERT INTO caps (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name";

/// What the batches of a day have cost, or may still.
const SPENT_SINCE: &str = "-- spent_since
SELECT CAST(COALESCE(SUM(reserved_nanos + spent_nanos), 0) AS BIGINT) FROM batches
WHERE created_at >= $1 AND ($2 = '' OR env = $2)";

const HOLD_JOB: &str = "-- hold_for_day
UPDATE jobs SET hold_until = $2 WHERE id = $1";

/// How soon a job is looked at again that a day's cap holds: somebody may have raised it.
const HELD_FOR_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

const NEXT_PACK: &str = "-- next_pack
SELECT due_round, pack FROM runs WHERE pool = $1 AND state = 'queued' AND due_round <= $2
ORDER BY due_round, pack, seq LIMIT 1";

/// Counted to a limit only: how long a long queue is does not matter.
const PACK_DEPTH: &str = "-- pack_depth
SELECT COUNT(*) FROM (SELECT 1 FROM runs
    WHERE pool = $1 AND state = 'queued' AND due_round <= $2 AND pack = $3 LIMIT $4) AS waiting";

const QUEUE: &str = "-- queue
SELECT seq, bytes, reserve_nanos FROM runs
WHERE pool = $1 AND state = 'queued' AND due_round = $2 AND pack = $3 ORDER BY seq LIMIT $4";

const INSERT_BATCH: &str = "-- insert_batch
INSERT INTO batches (id, env, pool, job_id, source, round, provider, account, pack, state, epoch, holder, wire_key,
    manifest, requests, body_bytes, reserved_nanos, price_version, created_at, mode)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'planned', 1, $10, $11, $12, $13, $14, $15, $16, $17, $18)";

const CLAIM: &str = "-- claim
UPDATE runs SET state = 'running', epoch = epoch + 1, attempts = attempts + 1, carrier = $5
WHERE pool = $1 AND state = 'queued' AND due_round = $2 AND pack = $3 AND seq <= $4";

pub(super) const INSERT_ATTEMPTS: &str = "-- insert_attempts
INSERT INTO attempts (run_id, epoch, state, batch_id, batch_pos, verdict, leased_at)
SELECT id, epoch, 'leased', $1, row_number() OVER (ORDER BY seq) - 1, 'open', $2 FROM runs WHERE carrier = $1";

const COUNT_OUT: &str = "-- count_out
UPDATE pools SET queued = queued - $2, running = running + $2, reserved_nanos = reserved_nanos + $3 WHERE name = $1";

impl Store {
    /// The pack of the next run that may be claimed in this round; `None` when nothing of it is left.
    pub async fn next_pack(&self, pool_name: &str, round: i64) -> Result<Option<String>, StoreError> {
        let next: Option<(i64, String)> = on_pool!(self, |pool| {
            sqlx::query_as(NEXT_PACK).bind(pool_name).bind(round).fetch_optional(pool).await?
        });
        Ok(next.map(|(_, pack)| pack))
    }

    /// What the batches of the day of `now` have cost, or may still: what the day's caps count.
    pub async fn spent_in_day(&self, now: Timestamp) -> Result<Money, StoreError> {
        let day = now.millis().div_euclid(DAY_MS) * DAY_MS;
        let spent: i64 =
            on_pool!(self, |pool| sqlx::query_scalar(SPENT_SINCE).bind(day).bind("").fetch_one(pool).await?);
        Ok(Money::from_nanos(spent))
    }

    /// How many runs of a pack may be claimed in this round, counted up to `most`.
    pub async fn pack_depth(&self, pool_name: &str, round: i64, pack: &str, most: i64) -> Result<i64, StoreError> {
        Ok(on_pool!(self, |pool| sqlx::query_scalar(PACK_DEPTH)
            .bind(pool_name)
            .bind(round)
            .bind(pack)
            .bind(most)
            .fetch_one(pool)
            .await?))
    }

    /// Opens the next batch of a job, as large as its limits allow, held by this node.
    pub async fn open_batch(&self, claim: &Claim<'_>) -> Result<Opened, StoreError> {
        let opened = in_tx!(self, |tx| {
            let sql = format!("{JOB}{FOR_UPDATE}");
            let job: Option<Job> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
                .bind(claim.job.as_str())
                .bind(claim.job_epoch.number())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(job) = job else { return Ok(Opened::NotDriven) };
            if job.hold_until > claim.now.millis() {
                return Ok(Opened::Held { until: Timestamp::from_millis(job.hold_until) });
            }
            let open: i64 =
                sqlx::query_scalar(ROUND_IS_OPEN).bind(claim.job.as_str()).bind(job.round).fetch_one(&mut *tx).await?;
            if open == 0 {
                return Ok(Opened::NothingQueued);
            }
            let next: Option<(i64, String)> =
                sqlx::query_as(NEXT_PACK).bind(&job.pool).bind(job.round).fetch_optional(&mut *tx).await?;
            let Some((due_round, pack)) = next else { return Ok(Opened::NothingQueued) };
            let (ceilings, provider, account) = job.settings(claim.job)?;
            let limits = claim.limits.within(i64::from(ceilings.max_batch_requests), job.learned_max_requests);
            let sql = format!("{QUEUE}{FOR_UPDATE}");
            let queue: Vec<Queued> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
                .bind(&job.pool)
                .bind(due_round)
                .bind(&pack)
                .bind(limits.max_requests)
                .fetch_all(&mut *tx)
                .await?;
            // Something was queued a moment ago: another claimer of the pool has taken it. Ask again.
            let cut = cut(&queue, &limits).ok_or_else(|| claimed_by_another(&job.pool))?;
            let sql = format!("{MONEY}{FOR_UPDATE}");
            let (reserved, spent): (i64, i64) =
                sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&job.pool).fetch_one(&mut *tx).await?;
            let reserve = cut.reserve.map(|reserve| claim.mode.price(reserve));
            if let Some(cap) = ceilings.max_usd() {
                let left = cap - Money::from_nanos(reserved) - Money::from_nanos(spent);
                let needs = reserve.unwrap_or(Money::MAX);
                if needs > left {
                    return Ok(Opened::OverCap { needs, left });
                }
            }
            let day = claim.now.millis().div_euclid(DAY_MS) * DAY_MS;
            for cap in claim.day_caps {
                let env = cap.env.as_deref().unwrap_or("");
                sqlx::query(HOLD_CAP).bind(format!("usd:{env}")).execute(&mut *tx).await?;
                let spent: i64 = sqlx::query_scalar(SPENT_SINCE).bind(day).bind(env).fetch_one(&mut *tx).await?;
                let left = cap.max - Money::from_nanos(spent);
                if reserve.unwrap_or(Money::MAX) > left {
                    let until = (day + DAY_MS).min(claim.now.millis() + HELD_FOR_MS);
                    sqlx::query(HOLD_JOB).bind(claim.job.as_str()).bind(until).execute(&mut *tx).await?;
                    tx.commit().await?;
                    return Ok(Opened::Held { until: Timestamp::from_millis(until) });
                }
            }
            let reserve = reserve.unwrap_or(Money::ZERO).nanos();
            sqlx::query(INSERT_BATCH)
                .bind(claim.batch.as_str())
                .bind(&job.env)
                .bind(&job.pool)
                .bind(claim.job.as_str())
                .bind(&job.source)
                .bind(job.round)
                .bind(&provider)
                .bind(&account)
                .bind(&pack)
                .bind(self.node().as_str())
                .bind(claim.wire_key)
                .bind(manifest(&queue, &cut))
                .bind(cut.requests)
                .bind(cut.bytes)
                .bind(reserve)
                .bind(claim.price_version)
                .bind(claim.now.millis())
                .bind(claim.mode.word())
                .execute(&mut *tx)
                .await?;
            if claim.mode == Mode::Canary {
                sqlx::query(TRY_CANARY)
                    .bind(&account)
                    .bind(&pack)
                    .bind(claim.batch.as_str())
                    .bind(claim.now.millis())
                    .execute(&mut *tx)
                    .await?;
            }
            let claimed = sqlx::query(CLAIM)
                .bind(&job.pool)
                .bind(due_round)
                .bind(&pack)
                .bind(cut.last_seq)
                .bind(claim.batch.as_str())
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if claimed.cast_signed() != cut.requests {
                return Err(claimed_by_another(&job.pool));
            }
            sqlx::query(INSERT_ATTEMPTS).bind(claim.batch.as_str()).bind(claim.now.millis()).execute(&mut *tx).await?;
            sqlx::query(COUNT_OUT).bind(&job.pool).bind(cut.requests).bind(reserve).execute(&mut *tx).await?;
            let epoch = Epoch::from_number(1);
            log_batch!(tx, claim.batch.as_str(), claim.now, epoch, "planned", manifest(&queue, &cut));
            reached(Failpoint::PlanOpen);
            Opened::Batch { epoch, requests: cut.requests }
        });
        reached(Failpoint::PlanStored);
        Ok(opened)
    }
}

impl Job {
    fn settings(&self, id: &JobId) -> Result<(Ceilings, String, String), StoreError> {
        let corrupt = |what, value: &str| StoreError::Corrupt {
            entity: "job",
            id: id.to_string(),
            what,
            value: value.to_owned(),
        };
        let scope: crate::model::Scope =
            serde_json::from_str(&self.scope).map_err(|_| corrupt("scope", &self.scope))?;
        let ceilings = serde_json::from_str(&self.ceilings).map_err(|_| corrupt("ceilings", &self.ceilings))?;
        Source::from_word(&self.source).ok_or_else(|| corrupt("source", &self.source))?;
        Ok((ceilings, scope.provider, scope.account))
    }
}

impl Limits {
    fn within(self, asked: i64, learned: Option<i64>) -> Limits {
        let smallest = self.max_requests.min(asked).min(learned.unwrap_or(i64::MAX));
        Limits { max_requests: smallest.max(1), ..self }
    }
}

/// The longest prefix that fits; at least one run, since a line that never fits was refused at intake.
fn cut(queue: &[Queued], limits: &Limits) -> Option<Cut> {
    let mut cut: Option<Cut> = None;
    for run in queue {
        let before = cut.unwrap_or(Cut { requests: 0, bytes: 0, reserve: Some(Money::ZERO), last_seq: 0 });
        let bytes = before.bytes + run.bytes;
        let requests = before.requests + 1;
        let too_large = bytes + requests * limits.envelope_bytes > limits.max_bytes || bytes > limits.max_bodies;
        if before.requests > 0 && (too_large || requests > limits.max_requests) {
            break;
        }
        let reserve = before.reserve.zip(run.reserve_nanos).map(|(sum, nanos)| sum + Money::from_nanos(nanos));
        cut = Some(Cut { requests, bytes, reserve, last_seq: run.seq });
    }
    cut
}

fn claimed_by_another(pool: &str) -> StoreError {
    StoreError::Moved { entity: "pool", id: pool.to_owned(), now: "claimed by another".to_owned() }
}

fn manifest(queue: &[Queued], cut: &Cut) -> String {
    let first = queue.first().map_or(0, |run| run.seq);
    serde_json::json!({
        "first_seq": first, "last_seq": cut.last_seq, "requests": cut.requests, "body_bytes": cut.bytes,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(sizes: &[i64]) -> Vec<Queued> {
        let run = |(seq, bytes): (usize, &i64)| Queued { seq: seq as i64, bytes: *bytes, reserve_nanos: Some(10) };
        sizes.iter().enumerate().map(run).collect()
    }

    #[test]
    fn a_batch_is_the_longest_prefix_that_fits_by_count_and_by_bytes() {
        let limits = Limits { max_requests: 3, max_bytes: 100, max_bodies: i64::MAX, envelope_bytes: 10 };
        let requests = |sizes: &[i64]| cut(&queue(sizes), &limits).map(|cut| (cut.requests, cut.last_seq));
        assert_eq!(requests(&[]), None);
        assert_eq!(requests(&[1, 1, 1, 1]), Some((3, 2)));
        assert_eq!(requests(&[40, 40, 1]), Some((2, 1)));
        assert_eq!(requests(&[40, 41, 1]), Some((1, 0)));
        assert_eq!(requests(&[500]), Some((1, 0)));
        let queue_room = Limits { max_requests: 9, max_bytes: 1_000, max_bodies: 80, envelope_bytes: 10 };
        assert_eq!(cut(&queue(&[40, 40, 1]), &queue_room).map(|cut| cut.requests), Some(2));
    }

    #[test]
    fn one_unpriced_run_makes_the_batch_unpriced() {
        let limits = Limits { max_requests: 9, max_bytes: 100, max_bodies: i64::MAX, envelope_bytes: 0 };
        let mut runs = queue(&[1, 1]);
        assert_eq!(cut(&runs, &limits).and_then(|cut| cut.reserve), Some(Money::from_nanos(20)));
        runs[1].reserve_nanos = None;
        assert_eq!(cut(&runs, &limits).and_then(|cut| cut.reserve), None);
    }

    #[test]
    fn a_learned_limit_only_ever_tightens() {
        let limits = Limits { max_requests: 50, max_bytes: 1, max_bodies: i64::MAX, envelope_bytes: 1 };
        assert_eq!(limits.within(10, None).max_requests, 10);
        assert_eq!(limits.within(10, Some(4)).max_requests, 4);
        assert_eq!(limits.within(100, Some(400)).max_requests, 50);
    }
}
