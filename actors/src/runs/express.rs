//! The short way: a run for which a worker is free is leased in the very commit that takes it in. That saves a
//! claim, and the wait for it, whenever nothing is waiting.

use super::waits::tell_no_waits;
use super::{Gates, Held, LaneIndex, LocalQueue, RunSettings, Settler, TaskKind, Tasks};
use crate::current::Current;
use std::sync::Arc;
use storage::store::{Brief, NewRecord};

#[derive(Debug, Clone)]
pub struct Express {
    pub(super) settings: Current<RunSettings>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) lanes: Arc<LaneIndex>,
    pub(super) queue: Arc<LocalQueue>,
    pub(super) gates: Arc<Gates>,
    pub(super) settler: Settler,
}

impl Express {
    /// Marks those of some runs that go the short way, because nothing has to be counted for them and nothing
    /// else waits that would come first: as many as workers are free for while nothing waits at all, and beside
    /// the flood of others a few of envs that are late and of which nothing waits. That verdicts wait for the store is
    /// the flood's doing too, and holds up no latecomer.
    pub(super) fn mark(&self, records: &mut [NewRecord]) {
        if !self.gates.may_claim() {
            return;
        }
        let idle = self.lanes.is_empty() && !self.settler.is_behind();
        let slots = self.settings.now().slots;
        let mut free = if idle { self.queue.wants(slots) } else { 0 };
        let mut late = self.queue.wants_late(slots);
        for record in records {
            if free == 0 && late == 0 {
                return;
            }
            let (first, left) = match free {
                0 => (!self.lanes.knows(&record.env) && self.queue.is_late(&record.env, slots), &mut late),
                _ => (true, &mut free),
            };
            if first && self.may_pass(record) {
                record.leased = true;
                *left -= 1;
            }
        }
    }

    fn may_pass(&self, record: &NewRecord) -> bool {
        let waits = record.buffered || record.not_before.is_some();
        let own = self.tasks.get(&record.task).is_some_and(|task| matches!(task.kind, TaskKind::Own(_)));
        let settings = self.settings.now();
        let queue = settings.queue(record.lane.queue());
        let env = settings.env(&record.env);
        let capped = [settings.max_running, env.max_running, queue.max_running].iter().any(Option::is_some);
        let paused = self.gates.is_paused(&record.env, record.lane.queue());
        !waits && own && !capped && !paused && record.lane.key().is_empty()
    }

    /// Hands those over that went the short way; they are durable.
    pub(super) fn hand_over<'a>(&self, records: impl Iterator<Item = &'a NewRecord>) {
        let reads = |task: &str| self.tasks.get(task).is_some_and(|task| task.reads_payload);
        let brief = |record: &NewRecord| match reads(&record.task) {
            true => Brief { payload: record.payload.clone(), session: record.session_id.clone(), trace: record.trace },
            false => Brief { trace: record.trace, ..Brief::default() },
        };
        let held: Vec<Held> = records
            .filter(|record| record.leased)
            .map(|record| Held::new(record.lease(), brief(record), record.accepted_at, self.settler.clone()))
            .collect();
        if held.is_empty() {
            return;
        }
        tell_no_waits(held.iter().map(|held| held.leased.lane.queue()));
        self.queue.push(held);
    }
}
