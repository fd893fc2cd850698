//! Who is taken in next: requests stand in a line, and each commit takes some runs of every request, so that one
//! with a single run never waits for all of a large one's. Pure.

use super::IntakeError;
use std::collections::VecDeque;
use storage::Class;
use storage::store::{Accepted, NewRecord};
use tokio::sync::{mpsc, oneshot};

/// Requests that are looked at for one commit.
const LINE_MAX: usize = 1_024;

/// What became of one run of a request.
pub type Verdict = Result<Accepted, IntakeError>;

/// A request in the line. Its runs are taken and answered in the order in which they were sent.
pub(super) struct Wish {
    left: VecDeque<NewRecord>,
    verdicts: Vec<Verdict>,
    answer: oneshot::Sender<Vec<Verdict>>,
}

/// See the module's first lines.
#[derive(Default)]
pub(super) struct Line {
    wishes: VecDeque<Wish>,
}

/// Runs for one commit, and the requests that they belong to with the number of each one's runs.
#[derive(Default)]
pub(super) struct Group {
    pub(super) records: Vec<NewRecord>,
    parts: Vec<(Wish, usize)>,
}

impl Wish {
    pub(super) fn new(records: Vec<NewRecord>, answer: oneshot::Sender<Vec<Verdict>>) -> Wish {
        Wish { verdicts: Vec::with_capacity(records.len()), left: records.into(), answer }
    }
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wish({} runs)", self.left.len())
    }
}

impl Line {
    /// Nothing is taken in for somebody who has gone away meanwhile, or was told that the store is away.
    pub(super) fn push(&mut self, wish: Wish) {
        if !wish.answer.is_closed() {
            self.wishes.push_back(wish);
        }
    }

    /// Puts those into the line that wait before it, as far as there is room.
    pub(super) fn take_from(&mut self, queue: &mut mpsc::Receiver<Wish>) {
        while self.has_room()
            && let Ok(wish) = queue.try_recv()
        {
            self.push(wish);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.wishes.len() < LINE_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// Runs in it.
    pub(super) fn runs(&self) -> usize {
        self.wishes.iter().map(|wish| wish.left.len()).sum()
    }

    /// The next commit: at most so many runs, whose payloads have at most so many bytes, but one run at least.
    pub(super) fn group(&mut self, rows: usize, bytes: usize) -> Group {
        let mut group = Group::default();
        let mut room = bytes;
        for most in allot(self.wishes.iter().map(|wish| wish.left.len()), rows) {
            let Some(mut wish) = self.wishes.pop_front() else { break };
            let before = group.records.len();
            while group.records.len() - before < most
                && let Some(size) = wish.left.front().map(size_of)
                && (size <= room || group.records.is_empty())
            {
                room = room.saturating_sub(size);
                group.records.extend(wish.left.pop_front());
            }
            let taken = group.records.len() - before;
            if taken == 0 && !wish.left.is_empty() {
                self.wishes.push_front(wish);
                break;
            }
            group.parts.push((wish, taken));
        }
        group
    }

    /// Answers the requests of a group that have all their verdicts; the others go to the end of the line.
    pub(super) fn settle(&mut self, group: Group, verdicts: Vec<Verdict>) {
        let mut verdicts = verdicts.into_iter();
        for (mut wish, taken) in group.parts {
            wish.verdicts.extend(verdicts.by_ref().take(taken));
            // While the store is away, what is left of a request would only wait for the same verdict.
            if let Some(verdict) = wish.verdicts.last().filter(|verdict| is_away(verdict)).cloned() {
                let rest = std::mem::take(&mut wish.left).len();
                wish.verdicts.extend(std::iter::repeat_n(verdict, rest));
            }
            if wish.left.is_empty() {
                // Nobody may be waiting for it any more.
                let _ = wish.answer.send(wish.verdicts);
            } else {
                self.push(wish);
            }
        }
    }
}

/// Divides the rows of a commit: an equal share to each request in the line, and what these do not need to the
/// first ones. Ends with the last request that gets any.
fn allot(wanted: impl ExactSizeIterator<Item = usize> + Clone, rows: usize) -> Vec<usize> {
    let share = (rows / wanted.len().max(1)).max(1);
    let mut given: Vec<usize> = wanted.clone().take(rows).map(|wanted| wanted.min(share)).collect();
    let mut left = rows.saturating_sub(given.iter().sum());
    for (given, wanted) in given.iter_mut().zip(wanted) {
        let more = left.min(wanted - *given);
        *given += more;
        left -= more;
    }
    given
}

fn is_away(verdict: &Verdict) -> bool {
    match verdict {
        Ok(_) | Err(IntakeError::Full) => false,
        Err(IntakeError::NoAnswer) => true,
        Err(IntakeError::Store(error)) => error.class() == Class::Retryable,
    }
}

fn size_of(record: &NewRecord) -> usize {
    record.payload.len() + record.metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::{Basin, Lane, RunId, Source, Timestamp};

    fn record(name: &str, payload: usize) -> NewRecord {
        NewRecord {
            id: RunId::from_text(name),
            env: "acme/dev".to_owned(),
            task: "noop".to_owned(),
            basin: Basin::own("acme/dev"),
            lane: Lane::new("default", ""),
            priority: 0,
            payload: "x".repeat(payload),
            tags: String::new(),
            metadata: String::new(),
            source: Source::Daemon,
            session_id: None,
            replay_of: None,
            max_attempts: 1,
            max_duration_ms: 0,
            accepted_at: Timestamp::from_millis(0),
            not_before: None,
            expires_at: None,
            buffered: false,
            leased: false,
            trace: None,
            idempotency: None,
        }
    }

    fn wish(line: &mut Line, name: char, runs: usize, payload: usize) -> oneshot::Receiver<Vec<Verdict>> {
        let (answer, answered) = oneshot::channel();
        line.push(Wish::new((0..runs).map(|run| record(&format!("{name}{run}"), payload)).collect(), answer));
        answered
    }

    fn names(group: &Group) -> Vec<&str> {
        group.records.iter().map(|record| record.id.as_str()).collect()
    }

    fn accept(line: &mut Line, group: Group) {
        let verdicts = vec![Ok(Accepted::New); group.records.len()];
        line.settle(group, verdicts);
    }

    #[test]
    fn rows_are_shared_equally_and_what_is_left_goes_to_the_first() {
        for (wanted, rows, given) in [
            (vec![1_000], 500, vec![500]),
            (vec![1_000, 1], 500, vec![499, 1]),
            (vec![1, 1_000, 1, 1_000], 100, vec![1, 73, 1, 25]),
            (vec![1, 1, 1], 2, vec![1, 1]),
            (vec![3], 0, vec![]),
            (vec![], 5, vec![]),
        ] {
            assert_eq!(allot(wanted.iter().copied(), rows), given, "{wanted:?} of {rows}");
        }
    }

    #[test]
    fn a_single_run_goes_with_the_next_commit_however_large_the_requests_before_it_are() {
        let mut line = Line::default();
        let mut flood: Vec<_> =
            ["a", "b", "c"].iter().map(|name| wish(&mut line, name.parse().expect("a character"), 50, 1)).collect();
        let mut single = wish(&mut line, 's', 1, 1);
        let group = line.group(16, 1_000);
        assert!(names(&group).contains(&"s0"), "{:?}", names(&group));
        accept(&mut line, group);
        assert_eq!(single.try_recv().expect("it is answered").len(), 1);
        assert!(flood.iter_mut().all(|answer| answer.try_recv().is_err()));
    }

    #[test]
    fn runs_are_counted() {
        let mut line = Line::default();
        let _answers: Vec<_> = [('a', 1), ('b', 2), ('c', 0)].map(|(name, runs)| wish(&mut line, name, runs, 1)).into();
        assert_eq!(line.runs(), 3);
        let group = line.group(1, 1_000);
        assert_eq!((names(&group), line.runs()), (vec!["a0"], 2));
    }

    #[test]
    fn every_run_of_every_request_gets_its_verdict_once_and_in_order() {
        let mut line = Line::default();
        let mut answers = [wish(&mut line, 'a', 7, 10), wish(&mut line, 'b', 0, 0), wish(&mut line, 'c', 20, 10)];
        let mut taken = Vec::new();
        for _ in 0..100 {
            let group = line.group(5, 35);
            assert!(group.records.len() <= 3, "35 bytes are three runs");
            taken.extend(names(&group).into_iter().map(str::to_owned));
            accept(&mut line, group);
        }
        assert!(line.is_empty());
        let counts: Vec<usize> = answers.iter_mut().map(|answer| answer.try_recv().expect("answered").len()).collect();
        assert_eq!(counts, [7, 0, 20]);
        let of = |name: char| taken.iter().filter(|run| run.starts_with(name)).cloned().collect::<Vec<_>>();
        assert_eq!(of('a'), (0..7).map(|run| format!("a{run}")).collect::<Vec<_>>());
        assert_eq!(of('c'), (0..20).map(|run| format!("c{run}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_run_larger_than_a_commit_goes_alone() {
        let mut line = Line::default();
        let _answers = (wish(&mut line, 'a', 1, 5_000), wish(&mut line, 'b', 1, 1));
        assert_eq!(names(&line.group(10, 100)), ["a0"]);
        assert_eq!(names(&line.group(10, 100)), ["b0"]);
    }

    #[test]
    fn a_store_that_is_away_ends_the_whole_request_and_a_bad_run_only_itself() {
        let mut line = Line::default();
        let (mut away, mut bad) = (wish(&mut line, 'a', 9, 1), wish(&mut line, 'b', 3, 1));
        let group = line.group(4, 1_000);
        assert_eq!(names(&group), ["a0", "a1", "b0", "b1"]);
        let nul = std::sync::Arc::new(storage::StoreError::NulInText { entity: "run", id: "b1".to_owned() });
        let verdicts =
            vec![Ok(Accepted::New), Err(IntakeError::NoAnswer), Err(IntakeError::Store(nul)), Ok(Accepted::New)];
        line.settle(group, verdicts);
        let told = away.try_recv().expect("answered");
        assert_eq!((told.len(), told.iter().filter(|verdict| verdict.is_ok()).count()), (9, 1));
        assert!(bad.try_recv().is_err(), "one of its runs is left");
        let group = line.group(4, 1_000);
        accept(&mut line, group);
        let told: Vec<bool> = bad.try_recv().expect("answered").iter().map(Result::is_ok).collect();
        assert_eq!(told, [false, true, true]);
    }
}
