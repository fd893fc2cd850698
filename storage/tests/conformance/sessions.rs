//! Sessions: walked along their graph, completed and closed once, whoever else tries.

use crate::fixture::{Fixture, at};
use crate::sent::{ENV, OTHER_ENV, verdict};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::model::{
    Closing, Graph, Refusal, RunId, RunState, SessionEvent, SessionId, SessionState, Step, Timestamp, Walk,
};
use storage::store::{
    DriverStands, Ending, NewRecord, NewSession, SessionChange, SessionFate, SessionFilter, SessionLife, SessionOpened,
    SessionRow, SessionRules,
};

const DAY_MS: i64 = 86_400_000;

fn review() -> Graph {
    let edges = [("context", "reviews"), ("reviews", "synthesis"), ("synthesis", "complete")];
    let edges: BTreeMap<String, Vec<String>> =
        edges.iter().map(|(from, to)| ((*from).to_owned(), vec![(*to).to_owned()])).collect();
    Graph::checked("context", "complete", edges).expect("a graph")
}

fn rules() -> SessionRules {
    let (stale, quiet) = (Duration::from_secs(7 * 86_400), Duration::from_secs(300));
    SessionRules { graph: review(), resumes_max: 2, stale, quiet }
}

impl Fixture {
    fn session_id(&self) -> SessionId {
        SessionId::from_text(format!("ses_{}", self.ulid()))
    }

    fn new_session(&self, driver: Option<&RunId>) -> NewSession {
        NewSession {
            id: self.session_id(),
            env: ENV.to_owned(),
            kind: "review".to_owned(),
            rules: rules(),
            metadata: "{\"branch\":\"main\"}".to_owned(),
            driver: driver.cloned(),
        }
    }

    /// A session that was opened at `at(0)`.
    pub async fn session_of(&self, driver: Option<&RunId>) -> SessionRow {
        let new = self.new_session(driver);
        assert_eq!(self.open_session(&new, at(0)).await.unwrap(), SessionOpened::New);
        self.now_of(&new.id).await
    }

    async fn now_of(&self, id: &SessionId) -> SessionRow {
        self.session(ENV, id).await.unwrap().expect("the session is there")
    }

    pub async fn walks(&self, id: &SessionId, phase: &str, now: Timestamp) -> SessionChange {
        let decide = |row: &SessionRow| row.walk.to(&row.rules.graph, phase);
        self.change_session(ENV, id, "{}", now, decide).await.unwrap()
    }

    async fn completes(&self, id: &SessionId, data: &str, now: Timestamp) -> SessionChange {
        let decide = |row: &SessionRow| row.walk.complete(&row.rules.graph);
        self.change_session(ENV, id, data, now, decide).await.unwrap()
    }

    pub async fn closes(&self, id: &SessionId, closing: Closing, now: Timestamp) -> SessionChange {
        self.change_session(ENV, id, "{}", now, |row| row.walk.close(closing)).await.unwrap()
    }

    pub async fn reopens(&self, id: &SessionId, now: Timestamp) -> SessionChange {
        self.change_session(ENV, id, "{}", now, |row| row.walk.reopen(&row.rules.graph)).await.unwrap()
    }

    /// The events of a session, with their rounds.
    async fn told(&self, id: &SessionId) -> Vec<(String, i64)> {
        let log = self.session_log(id, 0, 999).await.unwrap();
        assert!(log.iter().enumerate().all(|(nth, entry)| entry.seq == nth as i64 + 1), "no number is left out");
        log.into_iter().map(|entry| (entry.event, entry.round)).collect()
    }

    async fn at_synthesis(&self, driver: Option<&RunId>) -> SessionRow {
        let row = self.session_of(driver).await;
        is_now(self.walks(&row.id, "reviews", at(1)).await);
        is_now(self.walks(&row.id, "synthesis", at(2)).await)
    }

    pub async fn child(&self, session: &SessionId) -> RunId {
        self.sent(NewRecord { session_id: Some(session.to_string()), ..self.record(ENV) }).await
    }
}

#[track_caller]
fn is_now(change: SessionChange) -> SessionRow {
    match change {
        SessionChange::Is { row, changed: true } => *row,
        other => panic!("it was not changed: {other:?}"),
    }
}

#[track_caller]
fn was_so(change: SessionChange) -> SessionRow {
    match change {
        SessionChange::Is { row, changed: false } => *row,
        other => panic!("it was not so already: {other:?}"),
    }
}

#[track_caller]
fn refused(change: SessionChange) -> Refusal {
    match change {
        SessionChange::Refused { why, .. } => why,
        other => panic!("it was not refused: {other:?}"),
    }
}

fn events(of: &[&str]) -> Vec<(String, i64)> {
    of.iter().map(|event| ((*event).to_owned(), 1)).collect()
}

on_both! {
    async fn s002_n1_a_session_opens_at_its_initial_phase_with_one_event(store: Fixture) {
        let row = store.session_of(None).await;
        assert_eq!(row.walk, Walk::new(&review()));
        assert_eq!((row.opened_at, row.moved_at, row.seq, row.resumes), (at(0), at(0), 1, 0));
        assert_eq!((row.kind.as_str(), row.metadata.as_str()), ("review", "{\"branch\":\"main\"}"));
        assert_eq!(row.rules, rules(), "its type is kept with it");
        assert_eq!(store.told(&row.id).await, events(&["opened"]));
        assert_eq!(store.session(OTHER_ENV, &row.id).await.unwrap(), None, "another env has no such session");
    }

    async fn s002_n3_every_step_is_an_event_and_the_row_follows_from_them(store: Fixture) {
        let row = store.at_synthesis(None).await;
        let done = is_now(store.completes(&row.id, "{\"verdict\":\"ok\"}", at(3)).await);
        assert_eq!((done.walk.phase.as_str(), done.walk.completed, done.moved_at), ("complete", true, at(3)));
        assert_eq!(store.now_of(&row.id).await, done, "what it was told is what is stored");
        assert_eq!(store.told(&row.id).await, events(&["opened", "moved", "moved", "completed"]));
        let last = store.session_log(&row.id, 3, 9).await.unwrap().remove(0);
        assert_eq!((last.at, last.phase.as_str(), last.data.as_str()), (at(3).millis(), "complete", "{\"verdict\":\"ok\"}"));
    }

    async fn s002_n4_a_next_round_is_an_event_of_its_own_and_staying_is_none(store: Fixture) {
        let row = store.at_synthesis(None).await;
        was_so(store.walks(&row.id, "synthesis", at(3)).await);
        is_now(store.completes(&row.id, "{}", at(4)).await);
        let next = is_now(store.walks(&row.id, "context", at(5)).await);
        assert_eq!((next.walk.round, next.walk.completed, next.walk.phase.as_str()), (2, false, "context"));
        let told = store.told(&row.id).await;
        assert_eq!(told[3..], [("completed".to_owned(), 1), ("next_round".to_owned(), 2)]);
    }

    async fn s002_n8_what_is_refused_leaves_no_trace(store: Fixture) {
        let row = store.session_of(None).await;
        let before = store.snapshot().await;
        refused(store.walks(&row.id, "synthesis", at(1)).await);
        refused(store.walks(&row.id, "topology", at(1)).await);
        refused(store.completes(&row.id, "{}", at(1)).await);
        refused(store.closes(&row.id, Closing::Complete, at(1)).await);
        refused(store.reopens(&row.id, at(1)).await);
        let unknown = store.walks(&SessionId::from_text("ses_none"), "reviews", at(1)).await;
        assert_eq!(unknown, SessionChange::NotFound, "s002_n5");
        let other = store.change_session(OTHER_ENV, &row.id, "{}", at(1), |row| row.walk.close(Closing::Aborted)).await;
        assert_eq!(other.unwrap(), SessionChange::NotFound);
        before.assert_same(&store.snapshot().await, "asking for what is not allowed");
    }

    async fn s002_n11_of_a_hundred_closes_at_once_one_is_told(store: Fixture) {
        let row = store.at_synthesis(None).await;
        is_now(store.completes(&row.id, "{}", at(3)).await);
        let callers = store.callers(100).await;
        let closes = callers.iter().enumerate().map(|(nth, caller)| {
            let closing = if nth % 3 == 0 { Closing::Aborted } else { Closing::Complete };
            caller.change_session(ENV, &row.id, "{}", at(4), move |row| row.walk.close(closing))
        });
        let answers = futures_util::future::join_all(closes).await;
        let rows: Vec<(bool, SessionRow)> = answers
            .into_iter()
            .map(|answer| match answer.unwrap() {
                SessionChange::Is { row, changed } => (changed, *row),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(rows.iter().filter(|(changed, _)| *changed).count(), 1);
        let first = store.now_of(&row.id).await;
        assert!(rows.iter().all(|(_, row)| *row == first), "all are answered with the first one");
        let told = store.told(&row.id).await;
        assert_eq!(told.iter().filter(|(event, _)| event == "closed").count(), 1, "{told:?}");
    }

    async fn s002_m10_a_round_is_completed_once_whoever_tries(store: Fixture) {
        let row = store.at_synthesis(None).await;
        let callers = store.callers(20).await;
        let data: Vec<String> = (0..20).map(|nth| format!("{{\"by\":{nth}}}")).collect();
        let completes = callers.iter().zip(&data).map(|(caller, data)| {
            caller.change_session(ENV, &row.id, data, at(3), |row| row.walk.complete(&row.rules.graph))
        });
        let answers = futures_util::future::join_all(completes).await;
        let changed = answers.iter().filter(|answer| matches!(answer, Ok(SessionChange::Is { changed: true, .. })));
        assert_eq!((changed.count(), answers.iter().all(Result::is_ok)), (1, true), "{answers:?}");
        assert_eq!(store.told(&row.id).await, events(&["opened", "moved", "moved", "completed"]));
    }

    async fn s002_n13_an_aborted_session_goes_on_as_the_next_round_and_not_from_where_it_was(store: Fixture) {
        let row = store.at_synthesis(None).await;
        is_now(store.closes(&row.id, Closing::Aborted, at(3)).await);
        let next = is_now(store.reopens(&row.id, at(4)).await);
        assert_eq!((next.walk.round, next.walk.phase.as_str(), next.walk.closing), (2, "context", None));
        refused(store.completes(&row.id, "{}", at(5)).await);
        is_now(store.closes(&row.id, Closing::Aborted, at(6)).await);
        assert_eq!(is_now(store.reopens(&row.id, at(7)).await).walk.round, 3);
    }

    async fn s002_e1_the_database_takes_no_event_that_there_is_not(store: Fixture) {
        let row = store.session_of(None).await;
        let event = |event: &str, seq: i64| {
            format!("INSERT INTO session_events (session_id, seq, at, event, round, phase, data)
                VALUES ('{}', {seq}, 0, '{event}', 1, 'context', '{{}}')", row.id)
        };
        store.raw.try_exec(&event("complted", 2)).await.expect_err("it is misspelt");
        store.raw.exec(&event("completed", 2)).await;
        store.raw.try_exec(&event("completed", 3)).await.expect_err("a round is completed once");
        store.raw.exec(&format!("DELETE FROM session_events WHERE session_id = '{}' AND seq = 2", row.id)).await;
    }

    async fn s002_e3_the_database_closes_no_session_without_its_event(store: Fixture) {
        let row = store.session_of(None).await;
        let close = |closing: &str| {
            format!("UPDATE sessions SET state = 'closed', closing = '{closing}' WHERE id = '{}'", row.id)
        };
        for closing in ["aborted", "stale", "complete"] {
            store.raw.try_exec(&close(closing)).await.expect_err(closing);
        }
        let complete = format!("UPDATE sessions SET completed_round = 1 WHERE id = '{}'", row.id);
        store.raw.try_exec(&complete).await.expect_err("nothing says that it is complete");
        assert_eq!(store.now_of(&row.id).await, row);
        is_now(store.closes(&row.id, Closing::Aborted, at(1)).await);
        let complete = format!("UPDATE sessions SET closing = 'complete' WHERE id = '{}'", row.id);
        store.raw.try_exec(&complete).await.expect_err("s002_e4: its round is not");
    }

    /// An event of an earlier round lets nobody close a later one.
    async fn a_close_of_an_earlier_round_does_not_count_for_this_one(store: Fixture) {
        let row = store.session_of(None).await;
        is_now(store.closes(&row.id, Closing::Aborted, at(1)).await);
        is_now(store.reopens(&row.id, at(2)).await);
        let close = format!("UPDATE sessions SET state = 'closed', closing = 'aborted' WHERE id = '{}'", row.id);
        store.raw.try_exec(&close).await.expect_err("this round was not closed");
    }

    async fn s002_l2_a_run_drives_one_session_for_good(store: Fixture) {
        let driver = store.sent(store.record(ENV)).await;
        let first = store.session_of(Some(&driver)).await;
        assert_eq!((first.driver.as_ref(), first.first_driver.as_ref()), (Some(&driver), Some(&driver)));
        assert_eq!(store.stands(&driver).await.session_id.as_deref(), Some(first.id.as_str()));
        let before = store.snapshot().await;
        let again = store.open_session(&store.new_session(Some(&driver)), at(1)).await.unwrap();
        assert_eq!(again, SessionOpened::Driven(first.id.clone()), "asked for twice, it is there once");
        let child = store.child(&first.id).await;
        let ended = store.leased(store.record(ENV)).await;
        store.settle_one(&ended, Ending::Succeeded).await;
        let of_other = store.sent(store.record(OTHER_ENV)).await;
        for run in [child, ended.run, of_other, RunId::from_text("run_none")] {
            let opened = store.open_session(&store.new_session(Some(&run)), at(1)).await.unwrap();
            assert_eq!(opened, SessionOpened::NoSuchDriver, "{run}");
        }
        let sessions = store.list_sessions(ENV, &SessionFilter::default(), None, 9).await.unwrap();
        assert_eq!(sessions.len(), 1, "nothing was opened");
        let mut now = store.snapshot().await;
        let mut before = before;
        for table in ["run_records", "ready", "leases"] {
            now.ignore(table);
            before.ignore(table);
        }
        before.assert_same(&now, "asking for a driver that cannot be one");
    }

    async fn sessions_are_listed_newest_first_by_state_and_type(store: Fixture) {
        let mut opened = Vec::new();
        for _ in 0..5 {
            opened.push(store.session_of(None).await.id);
        }
        is_now(store.closes(&opened[1], Closing::Aborted, at(1)).await);
        let ids = async |filter: &SessionFilter, before: Option<&str>, limit| {
            let rows = store.list_sessions(ENV, filter, before, limit).await.unwrap();
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        let all: Vec<SessionId> = opened.iter().rev().cloned().collect();
        assert_eq!(ids(&SessionFilter::default(), None, 9).await, all);
        assert_eq!(ids(&SessionFilter::default(), Some(all[1].as_str()), 2).await, all[2..4]);
        let closed = SessionFilter { state: Some(SessionState::Closed), kind: None };
        assert_eq!(ids(&closed, None, 9).await, [opened[1].clone()]);
        let active = SessionFilter { state: Some(SessionState::Active), kind: Some("review".to_owned()) };
        assert_eq!(ids(&active, None, 9).await.len(), 4);
        assert!(ids(&SessionFilter { kind: Some("map".to_owned()), ..active }, None, 9).await.is_empty());
        assert_eq!(store.list_sessions(OTHER_ENV, &SessionFilter::default(), None, 9).await.unwrap(), []);
    }

    async fn s002_o4_exit_0_is_a_success_once_its_round_is_completed_and_stays_one(store: Fixture) {
        let row = store.at_synthesis(None).await;
        let record = NewRecord { session_id: Some(row.id.to_string()), ..store.record(ENV) };
        let lease = store.leased(record).await;
        assert_eq!(store.stands(&lease.run).await.unfinished, None, "s002_o1: it has not ended");
        store.settle_one(&lease, Ending::Succeeded).await;
        let why = store.stands(&lease.run).await.unfinished;
        assert_eq!(why.as_deref(), Some("its session is at phase synthesis of round 1"), "s002_o5");
        is_now(store.completes(&row.id, "{}", at(30)).await);
        assert_eq!(store.stands(&lease.run).await.unfinished, None);
        is_now(store.closes(&row.id, Closing::Complete, at(31)).await);
        is_now(store.reopens(&row.id, at(32)).await);
        assert_eq!(store.stands(&lease.run).await.unfinished, None, "another round is not its business");
    }

    async fn s002_o5_exit_0_of_a_session_that_was_given_up_is_no_success(store: Fixture) {
        let row = store.session_of(None).await;
        let record = NewRecord { session_id: Some(row.id.to_string()), ..store.record(ENV) };
        let (well, ill) = (store.leased(record.clone()).await, store.leased(NewRecord { id: store.run_id(), ..record }).await);
        store.settle_one(&well, Ending::Succeeded).await;
        store.settle_one(&ill, Ending::Failed).await;
        is_now(store.closes(&row.id, Closing::Stale, at(30)).await);
        let why = store.stands(&well.run).await.unfinished;
        assert_eq!(why.as_deref(), Some("its session was closed as stale at phase context of round 1"));
        assert_eq!(store.stands(&ill.run).await.unfinished, None, "s002_o3: it failed, which is worse");
        let listed = store.list_runs(ENV, &Default::default(), None, 9).await.unwrap();
        assert_eq!(listed.iter().filter(|run| run.unfinished.is_some()).count(), 1, "lists say so too");
    }

    async fn s002_n12_a_close_leaves_its_runs_but_not_its_driver_to_be_cancelled(store: Fixture) {
        let driver = store.sent(store.record(ENV)).await;
        let row = store.session_of(Some(&driver)).await;
        let (waiting, leased) = (store.child(&row.id).await, store.child(&row.id).await);
        let ended = store.leased(NewRecord { session_id: Some(row.id.to_string()), ..store.record(ENV) }).await;
        store.settle_one(&ended, Ending::Succeeded).await;
        store.sent(store.record(ENV)).await;
        let mut children = store.session_children(&row, 9).await.unwrap();
        children.sort();
        assert_eq!(children, [waiting.clone(), leased.clone()]);
        store.cancel_run(ENV, &waiting, at(40)).await.unwrap();
        assert_eq!(store.session_children(&row, 9).await.unwrap(), [leased]);
    }

    async fn a_child_that_was_told_to_stop_is_not_told_again(store: Fixture) {
        let row = store.session_of(None).await;
        let lease = store.leased(NewRecord { session_id: Some(row.id.to_string()), ..store.record(ENV) }).await;
        assert_eq!(store.session_children(&row, 9).await.unwrap(), std::slice::from_ref(&lease.run));
        store.cancel_run(ENV, &lease.run, at(40)).await.unwrap();
        assert_eq!(store.session_children(&row, 9).await.unwrap(), []);
    }

    async fn s002_x4_the_sweep_says_why_it_closes(store: Fixture) {
        let row = store.session_of(None).await;
        let now = at(8 * DAY_MS);
        let stale = |_: &SessionRow, _: &SessionLife| SessionFate::Close(Closing::Stale);
        let (swept, fate) = store.sweep_session(&row, now, stale).await.unwrap().expect("it has not moved");
        assert_eq!((swept.walk.closing, fate), (Some(Closing::Stale), SessionFate::Close(Closing::Stale)));
        let last = store.session_log(&row.id, 1, 9).await.unwrap().remove(0);
        assert_eq!(last.event, "closed");
        assert!(last.data.contains("\"stale_seconds\":604800") && last.data.contains("sweep"), "{}", last.data);
        assert_eq!(store.sweep_session(&row, now, stale).await.unwrap(), None, "s002_x5: it was seen before it was closed");
        assert_eq!(store.told(&row.id).await, events(&["opened", "closed"]));
    }

    async fn s002_x6_an_event_goes_when_its_row_cannot_be_written(store: Fixture) {
        let row = store.session_of(None).await;
        let before = store.snapshot().await;
        let wrong = |_: &SessionRow, _: &SessionLife| SessionFate::Close(Closing::Complete);
        store.sweep_session(&row, at(1), wrong).await.expect_err("its round is not completed");
        let skip = |row: &SessionRow| Ok(Step::Go(SessionEvent::Closed, Walk {
            state: SessionState::Closed,
            ..row.walk.clone()
        }));
        store.change_session(ENV, &row.id, "{}", at(1), skip).await.expect_err("closed, and not why");
        before.assert_same(&store.snapshot().await, "a close that the database refuses");
    }

    async fn s002_x3_the_sweep_is_told_what_is_alive(store: Fixture) {
        let driver = store.leased(store.record(ENV)).await;
        let row = store.session_of(Some(&driver.run)).await;
        let life = async || {
            let seen = std::sync::Mutex::new(SessionLife::default());
            let look = |_: &SessionRow, life: &SessionLife| {
                *seen.lock().unwrap() = life.clone();
                SessionFate::Look(Some(at(99)))
            };
            store.sweep_session(&row, at(50), look).await.unwrap().expect("it has not moved");
            seen.into_inner().unwrap()
        };
        let driver_stands = Some(DriverStands::Open);
        assert_eq!(life().await, SessionLife { alive: true, open: false, last_end: None, driver: driver_stands });
        store.settle_one(&driver, Ending::Failed).await;
        let ended = Some(DriverStands::Ended(RunState::Failed));
        let dead = SessionLife { alive: false, open: false, last_end: Some(at(20)), driver: ended };
        assert_eq!(life().await, dead);
        let child = store.child(&row.id).await;
        assert_eq!(life().await, SessionLife { open: true, ..dead.clone() }, "it waits, and nobody carries it");
        store.cancel_run(ENV, &child, at(60)).await.unwrap();
        let lease = store.leased(NewRecord { session_id: Some(row.id.to_string()), ..store.record(ENV) }).await;
        assert_eq!(life().await, SessionLife { alive: true, open: true, last_end: Some(at(60)), ..dead.clone() });
        store.settle_runs(&[verdict(&lease, Ending::Lost)], at(70)).await.unwrap();
        assert!(!life().await.alive, "s002_l4: what counts is the lease, and not how old anything is");
        store.raw.exec(&format!("UPDATE sessions SET driver = 'run_none' WHERE id = '{}'", row.id)).await;
        assert_eq!(life().await.driver, Some(DriverStands::Missing));
        store.raw.exec(&format!("UPDATE sessions SET driver = first_driver WHERE id = '{}'", row.id)).await;
    }

    async fn s002_f8_a_resume_is_counted_before_it_is_made_and_never_beyond_the_cap(store: Fixture) {
        let driver = store.sent(store.record(ENV)).await;
        let row = store.at_synthesis(Some(&driver)).await;
        let mut seen = row.clone();
        for resume in 1..=2 {
            let next = RunId::from_text(format!("run_resume_{resume}"));
            let fate = SessionFate::Resume(next.clone());
            let (now, _) = store.sweep_session(&seen, at(50), |_, _| fate.clone()).await.unwrap().expect("unmoved");
            assert_eq!((now.resumes, now.driver.as_ref(), now.first_driver.as_ref()), (resume, Some(&next), Some(&driver)));
            assert_eq!((now.walk.clone(), now.walk.phase.as_str()), (row.walk.clone(), "synthesis"), "it goes on from there");
            seen = now;
        }
        let third = SessionFate::Resume(RunId::from_text("run_resume_3"));
        store.sweep_session(&seen, at(60), |_, _| third.clone()).await.expect_err("the cap is the database's too");
        assert_eq!(store.now_of(&row.id).await.resumes, 2);
        let late = store.sweep_session(&row, at(60), |_, _| third.clone()).await.unwrap();
        assert_eq!(late, None, "s002_f7: who saw it before does nothing");
        is_now(store.completes(&row.id, "{}", at(61)).await);
        assert_eq!(is_now(store.walks(&row.id, "context", at(62)).await).resumes, 0, "a round has its own");
    }

    async fn the_sweep_finds_those_that_are_due_and_no_others(store: Fixture) {
        let (young, old) = (store.session_of(None).await, store.session_of(None).await);
        let ids = async |now| -> Vec<SessionId> {
            store.sessions_due(now, 9).await.unwrap().into_iter().map(|row| row.id).collect()
        };
        assert!(ids(at(7 * DAY_MS - 1)).await.is_empty());
        is_now(store.walks(&young.id, "reviews", at(DAY_MS)).await);
        assert_eq!(ids(at(7 * DAY_MS)).await, std::slice::from_ref(&old.id));
        let look = SessionFate::Look(Some(at(9 * DAY_MS)));
        store.sweep_session(&old, at(7 * DAY_MS), |_, _| look.clone()).await.unwrap().expect("unmoved");
        assert!(ids(at(7 * DAY_MS)).await.is_empty());
        assert_eq!(ids(at(8 * DAY_MS)).await, std::slice::from_ref(&young.id));
        is_now(store.closes(&young.id, Closing::Aborted, at(8 * DAY_MS)).await);
        assert_eq!(ids(at(8 * DAY_MS)).await, std::slice::from_ref(&young.id), "to cancel what it left");
        let closed = store.now_of(&young.id).await;
        store.sweep_session(&closed, at(8 * DAY_MS), |_, _| SessionFate::Look(None)).await.unwrap().expect("unmoved");
        assert_eq!(ids(at(99 * DAY_MS)).await, [old.id], "nothing can come of the closed one any more");
    }
}
