//! Named places at which a process can be made to die, so that tests can kill it at every await that matters.
//!
//! `TIDEGATE_FAILPOINT=NAME[:NTH[:stop]]` kills this process with SIGKILL when the place NAME is passed for the
//! NTH time (default 1); with `stop` it is frozen there by SIGSTOP, until somebody sends SIGCONT. Unset, a failpoint
//! costs one atomic load. The table is the list of places; a name that is not in it is refused at start, so that no
//! test can wait for a place that does not exist.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The command on whose way a place lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedBy {
    Process,
    /// `process`, where it calls live.
    Live,
    Serve,
    /// `serve`, where a job works on runs that came in over HTTP.
    Jobs,
    /// `serve`, where sessions are walked, closed and swept.
    Sessions,
    /// `serve`, where what is old is cleared away.
    Sweeps,
    /// `repair import-batches`.
    Imports,
}

macro_rules! failpoints {
    ($($by:ident { $($variant:ident = $name:literal),+ $(,)? })+) => {
        /// A place that a kill can be aimed at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failpoint { $($($variant),+),+ }

        impl Failpoint {
            pub const ALL: &'static [Failpoint] = &[$($(Failpoint::$variant),+),+];

            pub const fn name(self) -> &'static str {
                match self { $($(Failpoint::$variant => $name),+),+ }
            }

            pub const fn passed_by(self) -> PassedBy {
                match self { $($(Failpoint::$variant)|+ => PassedBy::$by),+ }
            }
        }
    };
}

failpoints! {
    Process {
        ImportJobCreated = "import.job_created",
        ImportChunkOpen = "import.chunk_open",
        ImportChunkStored = "import.chunk_stored",
        ImportDone = "import.done",
        RoundOpened = "round.opened",
        PlanOpen = "plan.open",
        PlanStored = "plan.stored",
        UploadMarked = "upload.marked",
        UploadHalf = "upload.half",
        UploadSent = "upload.sent",
        UploadAnswered = "upload.answered",
        UploadStored = "upload.stored",
        CreateArmed = "create.armed",
        CreateHalf = "create.half",
        CreateBeforeCommit = "create.before_commit",
        CreateCommitted = "create.committed",
        CreateLastByte = "create.last_byte",
        CreateAnswered = "create.answered",
        CreateStored = "create.stored",
        ReconcileUnknown = "reconcile.unknown",
        ReconcileListed = "reconcile.listed",
        ReconcileAdopted = "reconcile.adopted",
        ReconcileFirstAbsence = "reconcile.first_absence",
        ReconcileBeforeDelete = "reconcile.before_delete",
        ReconcileDeleted = "reconcile.deleted",
        ReconcileCleared = "reconcile.cleared",
        PollAnswered = "poll.answered",
        PollEndedStored = "poll.ended_stored",
        CollectOpened = "collect.opened",
        CollectHalf = "collect.half",
        SettleOpen = "settle.open",
        SettleStored = "settle.stored",
        CollectSecondFile = "collect.second_file",
        CollectLeftovers = "collect.leftovers",
        CollectClosed = "collect.closed",
        RoundClosing = "round.closing",
        RoundClosed = "round.closed",
        JobFinishing = "job.finishing",
        JobFinished = "job.finished",
        OutOpened = "out.opened",
        OutHalf = "out.half",
        OutBeforeRename = "out.before_rename",
        OutRenamed = "out.renamed",
    }
    Live {
        LiveBegun = "live.begun",
        LiveCalling = "live.calling",
        LiveAnswered = "live.answered",
        LiveEnded = "live.ended",
    }
    Serve {
        AcceptOpen = "accept.open",
        AcceptStored = "accept.stored",
        MaterialiseOpen = "materialise.open",
        MaterialiseStored = "materialise.stored",
        ClaimOpen = "claim.open",
        ClaimStored = "claim.stored",
        FinishOpen = "finish.open",
        FinishStored = "finish.stored",
    }
    Jobs {
        JobTaken = "job.taken",
        JobStarted = "job.started",
        DrawOpen = "draw.open",
        DrawStored = "draw.stored",
        GiveBackOpen = "give_back.open",
        GiveBackStored = "give_back.stored",
        CancelDrawnOpen = "cancel_drawn.open",
        JobAsked = "job.asked",
    }
    Sessions {
        SessionOpen = "session.open",
        SessionTold = "session.told",
        SessionStored = "session.stored",
        SessionSettling = "session.settling",
        SessionResuming = "session.resuming",
    }
    Sweeps {
        BuryOpen = "bury.open",
        ExpireOpen = "expire.open",
        KeysOpen = "keys.open",
        RetentionOpen = "retention.open",
        MendOpen = "mend.open",
        DropOutputOpen = "drop_output.open",
        RetentionSessionsOpen = "retention.sessions_open",
        RetentionJobOpen = "retention.job_open",
        RetentionJobStored = "retention.job_stored",
    }
    Imports {
        ImportBatchOpen = "import.batch_open",
        ImportBatchStored = "import.batch_stored",
    }
}

struct Armed {
    name: String,
    nth: u32,
    seen: AtomicU32,
    /// Freezes instead of killing.
    stops: bool,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn armed() -> Option<&'static Armed> {
    ARMED
        .get_or_init(|| {
            let setting = std::env::var("TIDEGATE_FAILPOINT").ok().filter(|setting| !setting.is_empty())?;
            let mut parts = setting.split(':');
            let name = parts.next().unwrap_or_default().to_owned();
            let nth = parts.next().and_then(|nth| nth.parse().ok()).unwrap_or(1);
            Some(Armed { name, nth, seen: AtomicU32::new(0), stops: parts.next() == Some("stop") })
        })
        .as_ref()
}

/// The name given in the environment if it names no failpoint, for a refusal at start.
pub fn unknown_name() -> Option<&'static str> {
    let name = armed()?.name.as_str();
    let known = Failpoint::ALL.iter().any(|point| point.name() == name);
    (!known).then_some(name)
}

/// Dies here if a test asked for it. SIGKILL, not an exit: no destructor runs, no buffer is flushed.
#[inline]
pub fn reached(point: Failpoint) {
    if let Some(armed) = armed()
        && armed.name == point.name()
        && armed.seen.fetch_add(1, Ordering::SeqCst) + 1 == armed.nth
    {
        if armed.stops {
            freeze_this_process();
        } else {
            kill_this_process();
        }
    }
}

/// Returns when somebody has sent SIGCONT. The signal reaches the threads some moments after it was sent; this one goes
/// no further meanwhile.
fn freeze_this_process() {
    const MOMENTS: std::time::Duration = std::time::Duration::from_millis(20);
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    std::thread::sleep(MOMENTS);
}

fn kill_this_process() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Failpoint::ALL.len());
    }
}
