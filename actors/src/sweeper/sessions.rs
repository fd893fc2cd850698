//! The sweep over sessions: those that nothing of is alive any more are closed or go on with a new driver, and what a
//! close has left behind is cancelled.

use crate::executor::Stop;
use crate::metrics::{SESSIONS_CLOSED, SESSIONS_RESUMED};
use crate::parts::Parts;
use crate::runs::{RunParts, Settled, replay};
use std::time::Duration;
use storage::StoreError;
use storage::failpoint::{Failpoint, reached};
use storage::model::{Closing, RunId, RunState, SessionState, Timestamp};
use storage::store::{Cancelled, DriverStands, SessionFate, SessionLife, SessionRow};
use tracing::{info, warn};

/// Sessions, and runs of one session, in one go.
const PASS: i64 = 100;
/// How often in one pass it goes on with the runs of one session.
const GOES: u32 = 20;
/// A run that was on its way in when its session was closed is there by then.
const LATECOMERS: Duration = Duration::from_secs(60);
/// How often one is looked at that something still protects.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Decides what becomes of a session by now. Only what is alive protects one, so that none is protected for ever
/// (invariant 35): whatever is carried out is under a lease that ends. `fresh` is the run that would be the driver.
pub fn judge(row: &SessionRow, life: &SessionLife, now: Timestamp, may_resume: bool, fresh: &RunId) -> SessionFate {
    let again = now + row.rules.stale.min(row.rules.quiet).clamp(AGAIN_MIN, AGAIN_MAX);
    if row.walk.state == SessionState::Closed {
        let is_over = !life.open && now.since(row.moved_at) >= LATECOMERS;
        return SessionFate::Look((!is_over).then_some(again));
    }
    let last = life.last_end.map_or(row.moved_at, |end| end.max(row.moved_at));
    let idle = now.since(last);
    if !life.alive {
        if row.walk.completed && (!life.open && idle >= row.rules.quiet || idle >= row.rules.stale) {
            return SessionFate::Close(Closing::Complete);
        }
        if row.rules.resumes_max > 0 && !row.walk.completed && driver_is_gone(life) {
            if row.resumes >= row.rules.resumes_max {
                return SessionFate::Close(Closing::Exhausted);
            }
            if may_resume {
                return SessionFate::Resume(fresh.clone());
            }
        }
        if idle >= row.rules.stale {
            return SessionFate::Close(Closing::Stale);
        }
    }
    let due = row.rules.look_at(&row.walk, row.driver.is_some(), last, now);
    SessionFate::Look(Some(due.max(again)))
}

/// It ended, and not because somebody wanted it to; or it was counted and never came to be.
fn driver_is_gone(life: &SessionLife) -> bool {
    match life.driver {
        None | Some(DriverStands::Open | DriverStands::Ended(RunState::Cancelled)) => false,
        Some(DriverStands::Ended(_) | DriverStands::Missing) => true,
    }
}

/// Looks at the sessions that are due; returns how many were closed.
pub async fn sweep(parts: &Parts, runs: &RunParts) -> Result<u64, StoreError> {
    let store = &runs.store;
    let may_resume = parts.settings.now().resume_enabled;
    let mut closed = 0;
    for seen in store.sessions_due(store.now(), PASS).await? {
        let more = seen.walk.state == SessionState::Closed && settle_all(runs, &seen).await?;
        let (now, fresh) = (store.now(), parts.mint_run());
        let fate = |row: &SessionRow, life: &SessionLife| match more {
            true => SessionFate::Look(Some(now + AGAIN_MIN)),
            false => judge(row, life, now, may_resume, &fresh),
        };
        let swept = store.sweep_session(&seen, now, fate).await?;
        match swept {
            Some((row, SessionFate::Close(closing))) => {
                info!(session.id = %row.id, %closing, "closed a session of which nothing is alive");
                metrics::counter!(SESSIONS_CLOSED, "outcome" => closing.word()).increment(1);
                settle_children(runs, &row).await?;
                closed += 1;
            }
            Some((row, SessionFate::Resume(run))) => resume(runs, &row, run).await?,
            _ => {}
        }
    }
    Ok(closed)
}

/// Cancels what a closed session has left; returns whether there is more of it.
async fn settle_all(runs: &RunParts, session: &SessionRow) -> Result<bool, StoreError> {
    for _ in 0..GOES {
        if !settle_children(runs, session).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Cancels a part of what a closed session has left, but not its driver (invariant 29). Returns whether there may be
/// more: the sweep goes on with it.
pub async fn settle_children(runs: &RunParts, session: &SessionRow) -> Result<bool, StoreError> {
    let store = &runs.store;
    let children = store.session_children(session, PASS).await?;
    let more = children.len() as i64 == PASS;
    for run in children {
        reached(Failpoint::SessionSettling);
        match store.cancel_run(&session.env, &run, store.now()).await? {
            Cancelled::AtOnce => {
                runs.settler.announce(Settled { run, env: session.env.clone(), state: RunState::Cancelled });
            }
            Cancelled::Asked { .. } => {
                if !runs.stop_run(&run, Stop::Cancelled) {
                    runs.neighbours.cancelled(&run);
                }
            }
            Cancelled::Ended(_) | Cancelled::NotFound => {}
        }
    }
    Ok(more)
}

/// Writes the run that drives a session from now on. Its start is counted already (invariant 33): if this is not
/// reached, it is missing, and that was one of the session's tries.
async fn resume(runs: &RunParts, session: &SessionRow, run: RunId) -> Result<(), StoreError> {
    reached(Failpoint::SessionResuming);
    let Some(first) = &session.first_driver else { return Ok(()) };
    let Some(old) = runs.store.run_record(&session.env, first).await? else { return Ok(()) };
    let Some(task) = runs.tasks.get(&old.task) else {
        warn!(session.id = %session.id, task = old.task, "a session cannot go on: its driver's task is not configured");
        return Ok(());
    };
    let record = replay(old, task, run, runs.store.now());
    info!(session.id = %session.id, run.id = %record.id, resume = session.resumes, "a session goes on with a new driver");
    metrics::counter!(SESSIONS_RESUMED).increment(1);
    if let Err(error) = runs.take_in(vec![record]).await {
        warn!(session.id = %session.id, %error, "the driver of a session could not be written; it counts as a try");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use storage::model::{Graph, SessionId, Walk};
    use storage::store::SessionRules;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(hours: u32) -> Timestamp {
        Timestamp::from_millis(0) + HOUR * hours
    }

    /// A session without a driver that was opened at hour 0 and is stale after a day, or quiet after an hour.
    fn row() -> SessionRow {
        let edges = [("a", "b"), ("b", "complete")].map(|(from, to)| (from.to_owned(), vec![to.to_owned()]));
        let graph = Graph::checked("a", "complete", BTreeMap::from(edges)).expect("a graph");
        SessionRow {
            id: SessionId::from_text("ses_1"),
            env: "acme/prod".to_owned(),
            kind: "review".to_owned(),
            walk: Walk::new(&graph),
            rules: SessionRules { graph, resumes_max: 0, stale: HOUR * 24, quiet: HOUR },
            metadata: "{}".to_owned(),
            driver: None,
            first_driver: None,
            resumes: 0,
            seq: 1,
            opened_at: at(0),
            moved_at: at(0),
        }
    }

    fn completed() -> SessionRow {
        let mut row = row();
        (row.walk.completed, row.walk.phase) = (true, "complete".to_owned());
        row
    }

    /// Driven by a run that is tried again twice.
    fn driven(resumes: i64) -> SessionRow {
        let mut row = row();
        (row.rules.resumes_max, row.resumes, row.driver) = (2, resumes, Some(RunId::from_text("run_0")));
        row
    }

    fn dead(driver: Option<DriverStands>) -> SessionLife {
        SessionLife { driver, ..SessionLife::default() }
    }

    fn fate(row: &SessionRow, life: &SessionLife, hour: u32) -> SessionFate {
        judge(row, life, at(hour), true, &RunId::from_text("run_9"))
    }

    fn is_left(fate: &SessionFate) -> bool {
        matches!(fate, SessionFate::Look(Some(_)))
    }

    #[test]
    fn s002_x1_what_nothing_happens_to_is_closed_as_stale_and_not_before() {
        let life = SessionLife::default();
        assert_eq!(fate(&row(), &life, 24), SessionFate::Close(Closing::Stale));
        assert_eq!(fate(&row(), &life, 23), SessionFate::Look(Some(at(24))), "s002_x2: it looks again when it is due");
        let moved = SessionRow { moved_at: at(2), ..row() };
        assert!(is_left(&fate(&moved, &life, 25)));
    }

    #[test]
    fn s002_x3_what_is_carried_out_protects_a_session_and_what_only_waits_does_not() {
        let alive = SessionLife { alive: true, open: true, ..SessionLife::default() };
        let SessionFate::Look(Some(next)) = fate(&row(), &alive, 900) else { panic!("it was closed") };
        assert_eq!(next, at(900) + AGAIN_MAX, "it is looked at again, for its lease may lapse");
        let waits = SessionLife { open: true, ..SessionLife::default() };
        assert_eq!(fate(&row(), &waits, 24), SessionFate::Close(Closing::Stale), "nothing is protected for ever");
        let just_ended = SessionLife { last_end: Some(at(899)), ..SessionLife::default() };
        assert!(is_left(&fate(&row(), &just_ended, 900)), "what has just ended was alive");
        assert_eq!(fate(&row(), &just_ended, 923), SessionFate::Close(Closing::Stale));
    }

    #[test]
    fn s002_f1_a_completed_session_is_closed_as_complete_once_it_is_quiet() {
        let (quiet, busy) = (SessionLife::default(), SessionLife { open: true, ..SessionLife::default() });
        assert_eq!(fate(&completed(), &quiet, 1), SessionFate::Close(Closing::Complete));
        assert!(is_left(&fate(&completed(), &quiet, 0)));
        assert!(is_left(&fate(&completed(), &busy, 1)), "s002_f3: a run of it has not ended");
        assert_eq!(fate(&completed(), &busy, 24), SessionFate::Close(Closing::Complete), "nor does that hold for ever");
        assert!(is_left(&fate(&row(), &quiet, 1)), "s002_f2: the others are left");
    }

    #[test]
    fn s002_f5_a_driver_that_ended_without_completing_is_started_again_as_often_as_may_be() {
        for state in [RunState::Failed, RunState::TimedOut, RunState::Expired, RunState::Succeeded] {
            let life = dead(Some(DriverStands::Ended(state)));
            assert_eq!(fate(&driven(0), &life, 1), SessionFate::Resume(RunId::from_text("run_9")), "{state}");
            assert_eq!(fate(&driven(2), &life, 1), SessionFate::Close(Closing::Exhausted), "s002_f6: {state}");
        }
        let missing = dead(Some(DriverStands::Missing));
        assert!(matches!(fate(&driven(1), &missing, 1), SessionFate::Resume(_)), "s002_f8: that one counted too");
    }

    #[test]
    fn s002_f10_nobody_is_started_beside_what_is_alive_or_against_what_somebody_wanted() {
        let ended = Some(DriverStands::Ended(RunState::Failed));
        let still = SessionLife { alive: true, ..dead(ended) };
        assert!(is_left(&fate(&driven(0), &still, 1)));
        assert!(is_left(&fate(&driven(0), &dead(Some(DriverStands::Open)), 1)));
        assert!(is_left(&fate(&driven(0), &dead(Some(DriverStands::Ended(RunState::Cancelled))), 1)));
        let mut unasked = driven(0);
        unasked.rules.resumes_max = 0;
        assert!(is_left(&fate(&unasked, &dead(ended), 1)));
        let off = judge(&driven(0), &dead(ended), at(1), false, &RunId::from_text("run_9"));
        assert!(is_left(&off), "somebody has switched that off");
        let mut done = driven(0);
        done.walk.completed = true;
        assert_eq!(fate(&done, &dead(ended), 1), SessionFate::Close(Closing::Complete));
    }

    #[test]
    fn a_closed_session_is_looked_at_until_nothing_of_it_is_left() {
        let mut closed = row();
        (closed.walk.state, closed.walk.closing) = (SessionState::Closed, Some(Closing::Aborted));
        let open = SessionLife { open: true, ..SessionLife::default() };
        assert!(is_left(&fate(&closed, &open, 900)));
        assert!(is_left(&fate(&closed, &SessionLife::default(), 0)), "somebody may be on the way in");
        assert_eq!(fate(&closed, &SessionLife::default(), 1), SessionFate::Look(None));
    }
}
