//! The round decision: what a job does next. Pure, and the only place where a job's end is decided.

use std::time::Duration;
use storage::model::{Ceilings, Standing, StopReason, Timestamp};
use storage::store::{RoundRow, Waiting};

/// Error share from which a round counts as bad, in percent.
const BAD_PERCENT: i64 = 80;

/// A rate over fewer requests than this is chance, unless they are at least half of the pool: the last two
/// lines of a file failing twice say nothing about the provider.
const TELLING_REQUESTS: i64 = 20;

/// What is known about a job at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub now: Timestamp,
    pub started_at: Timestamp,
    pub ceilings: Ceilings,
    pub round: i64,
    pub first_round: i64,
    /// Runs of the pool, in whatever state.
    pub total: i64,
    pub queued: i64,
    pub running: i64,
    /// Whether a queued run may be claimed in the current round.
    pub claimable: bool,
    pub in_flight: i64,
    /// The registry answered that the next batch could pass the spend cap.
    pub cap_reached: bool,
    /// The job's latest rounds, newest first.
    pub rounds: Vec<RoundRow>,
    /// Whether it batches what waits again and again, and if so whether its next round is due.
    pub standing: Option<Due>,
}

/// Whether a standing job's next round may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Now,
    Later,
}

/// Decides when a standing job's next round is due: `every_ms` after `since`, which is when its last one ended or
/// the job began, or as soon as enough waits.
pub fn due(standing: &Standing, since: Timestamp, waiting: Waiting, now: Timestamp) -> Due {
    let in_time = now.since(since) >= Duration::from_millis(standing.every_ms);
    let enough_runs = standing.at_runs.is_some_and(|runs| waiting.runs >= i64::from(runs));
    let enough_bytes = standing.at_bytes.is_some_and(|bytes| waiting.bytes.cast_unsigned() >= bytes);
    if in_time || (waiting.runs > 0 && (enough_runs || enough_bytes)) { Due::Now } else { Due::Later }
}

impl Snapshot {
    /// No round is under way, so that one may be opened and what waits may be drawn for it.
    pub fn is_between_rounds(&self) -> bool {
        !self.rounds.first().is_some_and(|round| round.round == self.round && round.ended_at.is_none())
    }
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Wait,
    OpenRound(i64),
    CloseRound(i64),
    Finish(StopReason),
}

/// Decides. Ceilings are checked before anything that spends (invariant 26); an empty queue beats every
/// other reason to stop.
pub fn decide(job: &Snapshot) -> Decision {
    let open = job.rounds.first().filter(|round| round.round == job.round && round.ended_at.is_none());
    let empty = job.queued == 0 && job.running == 0;
    match open {
        Some(_) if empty => Decision::CloseRound(job.round),
        Some(_) if wallclock_is_up(job) => Decision::Finish(StopReason::Wallclock),
        Some(_) if job.in_flight > 0 || job.running > 0 => Decision::Wait,
        Some(_) if job.cap_reached && job.claimable => Decision::Finish(StopReason::SpendCap),
        Some(_) if job.claimable => Decision::Wait,
        Some(_) => Decision::CloseRound(job.round),
        None if empty && job.standing.is_some() && !wallclock_is_up(job) => Decision::Wait,
        None if empty && job.rounds.is_empty() => Decision::Finish(StopReason::AlreadyEmpty),
        None if empty => Decision::Finish(StopReason::Drained),
        None => between_rounds(job),
    }
}

fn between_rounds(job: &Snapshot) -> Decision {
    if wallclock_is_up(job) {
        return Decision::Finish(StopReason::Wallclock);
    }
    if job.standing == Some(Due::Later) {
        return Decision::Wait;
    }
    // A standing job outlasts a provider's bad days: its next round comes in its time.
    if job.standing.is_none() && is_degraded(&job.rounds, job.total) {
        return Decision::Finish(StopReason::Degraded);
    }
    if let Some(last) = job.rounds.first()
        && last.carried == Some(0)
        && job.in_flight == 0
        && job.standing.is_none()
    {
        let ever = job.rounds.iter().any(|round| round.carried.is_some_and(|carried| carried > 0));
        return Decision::Finish(if ever { StopReason::NoProgress } else { StopReason::NoOp });
    }
    let done = job.round - job.first_round + 1;
    if done >= i64::from(job.ceilings.max_rounds) {
        return Decision::Finish(StopReason::MaxRounds);
    }
    Decision::OpenRound(job.round + 1)
}

fn wallclock_is_up(job: &Snapshot) -> bool {
    let limit = job.ceilings.max_wallclock().unwrap_or(Duration::MAX);
    job.now.since(job.started_at) >= limit
}

/// Two rounds in a row with at least 80 % errors. A round that carried nothing out, or too little to have a
/// rate, neither counts nor breaks the row.
fn is_degraded(rounds: &[RoundRow], total: i64) -> bool {
    let tells = |carried: i64| carried >= TELLING_REQUESTS || (carried > 0 && carried * 2 >= total);
    let rates = rounds.iter().filter_map(|round| match (round.carried, round.errored) {
        (Some(carried), Some(errored)) if tells(carried) => Some(errored * 100 >= carried * BAD_PERCENT),
        _ => None,
    });
    let latest: Vec<bool> = rates.take(2).collect();
    latest == [true, true]
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::LiveRules;

    fn closed(round: i64, carried: i64, errored: i64) -> RoundRow {
        RoundRow {
            round,
            pending_before: 0,
            pending_after: Some(0),
            carried: Some(carried),
            errored: Some(errored),
            ended_at: Some(1),
        }
    }

    fn opened(round: i64) -> RoundRow {
        RoundRow { round, pending_before: 0, pending_after: None, carried: None, errored: None, ended_at: None }
    }

    fn job(round: i64, queued: i64, rounds: Vec<RoundRow>) -> Snapshot {
        Snapshot {
            now: Timestamp::from_millis(10_000),
            started_at: Timestamp::from_millis(0),
            ceilings: Ceilings {
                max_rounds: 30,
                max_wallclock_ms: Some(60_000),
                max_usd_nanos: None,
                max_batch_requests: 50_000,
                live: LiveRules::default(),
            },
            round,
            first_round: 1,
            total: 10,
            queued,
            running: 0,
            claimable: false,
            in_flight: 0,
            cap_reached: false,
            rounds,
            standing: None,
        }
    }

    #[test]
    fn s000_d1_an_empty_pool_is_already_empty_and_no_round_is_opened() {
        assert_eq!(decide(&job(0, 0, vec![])), Decision::Finish(StopReason::AlreadyEmpty));
    }

    #[test]
    fn s000_d2_one_round_that_drains_ends_as_drained() {
        assert_eq!(decide(&job(0, 5, vec![])), Decision::OpenRound(1));
        assert_eq!(decide(&job(1, 0, vec![opened(1)])), Decision::CloseRound(1));
        assert_eq!(decide(&job(1, 0, vec![closed(1, 5, 0)])), Decision::Finish(StopReason::Drained));
    }

    #[test]
    fn s000_d3_a_pool_of_100_by_40_takes_three_rounds() {
        let mut left = 100;
        let mut rounds: Vec<RoundRow> = vec![];
        for round in 1..=3 {
            assert_eq!(decide(&job(round - 1, left, rounds.clone())), Decision::OpenRound(round));
            left -= 40.min(left);
            rounds.insert(0, closed(round, 40, 0));
        }
        assert_eq!(decide(&job(3, left, rounds)), Decision::Finish(StopReason::Drained));
    }

    #[test]
    fn s000_d4_a_round_that_carries_nothing_out_stops_as_no_progress_or_no_op() {
        assert_eq!(decide(&job(1, 5, vec![closed(1, 0, 0)])), Decision::Finish(StopReason::NoOp));
        let rounds = vec![closed(2, 0, 0), closed(1, 5, 1)];
        assert_eq!(decide(&job(2, 1, rounds)), Decision::Finish(StopReason::NoProgress));
    }

    #[test]
    fn s000_d5_d6_the_round_ceiling_is_exact() {
        let mut capped = job(1, 5, vec![closed(1, 5, 1)]);
        capped.ceilings.max_rounds = 1;
        assert_eq!(decide(&capped), Decision::Finish(StopReason::MaxRounds));
        capped.ceilings.max_rounds = 2;
        assert_eq!(decide(&capped), Decision::OpenRound(2));
        let mut later = job(12, 5, vec![closed(12, 5, 1)]);
        later.first_round = 11;
        later.ceilings.max_rounds = 2;
        assert_eq!(decide(&later), Decision::Finish(StopReason::MaxRounds));
    }

    #[test]
    fn s000_d7_the_wall_clock_stops_between_rounds_and_within_one() {
        let mut late = job(1, 5, vec![closed(1, 5, 1)]);
        late.now = Timestamp::from_millis(60_000);
        assert_eq!(decide(&late), Decision::Finish(StopReason::Wallclock));
        late.rounds = vec![opened(1)];
        late.in_flight = 1;
        assert_eq!(decide(&late), Decision::Finish(StopReason::Wallclock));
    }

    #[test]
    fn s000_d8_two_bad_rounds_in_a_row_stop_as_degraded() {
        let degraded = vec![closed(2, 10, 8), closed(1, 10, 10)];
        assert_eq!(decide(&job(2, 8, degraded)), Decision::Finish(StopReason::Degraded));
        let recovering = vec![closed(2, 10, 7), closed(1, 10, 10)];
        assert_eq!(decide(&job(2, 7, recovering)), Decision::OpenRound(3));
        assert_eq!(decide(&job(1, 10, vec![closed(1, 10, 10)])), Decision::OpenRound(2));
    }

    #[test]
    fn s000_d8_a_round_without_a_rate_neither_counts_nor_breaks_the_row() {
        let rounds = [closed(3, 10, 9), closed(2, 0, 0), closed(1, 10, 9)];
        assert!(is_degraded(&rounds, 10));
        assert!(!is_degraded(&rounds[..2], 10));
    }

    #[test]
    fn a_tail_that_fails_by_chance_is_not_degraded_and_an_outage_of_the_tail_is() {
        let tail = [closed(3, 2, 2), closed(2, 4, 4), closed(1, 100, 4)];
        assert!(!is_degraded(&tail, 100));
        let outage = [closed(3, 40, 40), closed(2, 40, 36), closed(1, 100, 40)];
        assert!(is_degraded(&outage, 100));
        assert!(is_degraded(&[closed(2, 1, 1), closed(1, 1, 1)], 1));
    }

    #[test]
    fn s000_d12_an_empty_pool_beats_every_other_reason() {
        let mut drained = job(2, 0, vec![closed(2, 10, 10), closed(1, 10, 10)]);
        drained.now = Timestamp::from_millis(60_000);
        drained.cap_reached = true;
        assert_eq!(decide(&drained), Decision::Finish(StopReason::Drained));
    }

    #[test]
    fn s000_d13_the_clean_reasons_are_exactly_two() {
        let clean: Vec<_> = StopReason::ALL.iter().filter(|reason| reason.is_clean()).collect();
        assert_eq!(clean, [&StopReason::AlreadyEmpty, &StopReason::Drained]);
    }

    #[test]
    fn the_spend_cap_stops_only_when_nothing_in_flight_could_still_release_money() {
        let mut capped = job(1, 5, vec![opened(1)]);
        capped.cap_reached = true;
        capped.claimable = true;
        capped.in_flight = 1;
        assert_eq!(decide(&capped), Decision::Wait);
        capped.in_flight = 0;
        assert_eq!(decide(&capped), Decision::Finish(StopReason::SpendCap));
    }

    #[test]
    fn a_round_closes_when_nothing_of_it_is_left_to_claim_or_to_wait_for() {
        let mut open = job(1, 5, vec![opened(1)]);
        assert_eq!(decide(&open), Decision::CloseRound(1));
        open.claimable = true;
        assert_eq!(decide(&open), Decision::Wait);
        open.claimable = false;
        open.running = 2;
        assert_eq!(decide(&open), Decision::Wait);
    }

    #[test]
    fn a_standing_job_waits_where_another_would_end_and_begins_a_round_when_it_is_due() {
        let standing = |queued, rounds: Vec<RoundRow>, due| Snapshot {
            standing: Some(due),
            ..job(rounds.len() as i64, queued, rounds)
        };
        assert_eq!(decide(&standing(0, vec![], Due::Now)), Decision::Wait);
        assert_eq!(decide(&standing(0, vec![closed(1, 5, 0)], Due::Now)), Decision::Wait);
        assert_eq!(decide(&standing(4, vec![], Due::Later)), Decision::Wait);
        assert_eq!(decide(&standing(4, vec![], Due::Now)), Decision::OpenRound(1));
        assert_eq!(decide(&standing(4, vec![closed(1, 10, 10)], Due::Later)), Decision::Wait);
        let bad = vec![closed(2, 10, 10), closed(1, 10, 10)];
        assert_eq!(decide(&standing(4, bad, Due::Now)), Decision::OpenRound(3));
        assert_eq!(decide(&standing(4, vec![closed(1, 0, 0)], Due::Now)), Decision::OpenRound(2));
        let mut capped = standing(4, vec![closed(1, 4, 4)], Due::Now);
        capped.ceilings.max_rounds = 1;
        assert_eq!(decide(&capped), Decision::Finish(StopReason::MaxRounds));
    }

    #[test]
    fn a_round_of_a_standing_job_is_due_by_time_by_runs_or_by_bytes() {
        let standing = Standing { every_ms: 1_000, at_runs: Some(10), at_bytes: Some(500) };
        let waits = |runs, bytes| Waiting { runs, bytes };
        let at = |ms, waiting| due(&standing, Timestamp::from_millis(5_000), waiting, Timestamp::from_millis(ms));
        assert_eq!(at(5_999, waits(9, 499)), Due::Later);
        assert_eq!(at(6_000, waits(0, 0)), Due::Now);
        assert_eq!(at(5_001, waits(10, 0)), Due::Now);
        assert_eq!(at(5_001, waits(1, 500)), Due::Now);
        let by_time = Standing { at_runs: None, at_bytes: None, ..standing };
        let much = due(&by_time, Timestamp::from_millis(5_000), waits(1_000, 10_000), Timestamp::from_millis(5_500));
        assert_eq!(much, Due::Later);
    }
}
