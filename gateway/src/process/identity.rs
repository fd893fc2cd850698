//! Which job a command means: the one of this file's content and of the options that change its meaning.
//!
//! Pure: decides over the jobs that the file has had. Never collects an old job silently under other options.

use crate::exit::{Exit, Failure};
use storage::model::{Ceilings, JobState, Scope, Source};
use storage::store::JobRow;

/// What the command asks for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub input_sha256: String,
    pub provider: String,
    pub account: String,
    pub max_attempts: u32,
    pub source: Source,
    pub ceilings: Ceilings,
    pub restart: bool,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Go on with this live job.
    Continue(Box<JobRow>),
    /// It is over: only write its results again.
    Rewrite(Box<JobRow>),
    /// A job of its own over the runs of `pool`: new ones, or those that a ceiling left pending.
    Create { scope: Scope, pool: String, supersedes: Option<Box<JobRow>> },
}

/// Decides over all jobs of the file, newest first.
pub fn meaning(wish: &Wish, jobs: &[JobRow]) -> Result<Meaning, Failure> {
    let here = |job: &&JobRow| job.scope.provider == wish.provider && job.scope.account == wish.account;
    let edition = jobs.iter().filter(here).map(|job| job.scope.edition).max();
    let own = edition.and_then(|edition| jobs.iter().filter(here).find(|job| job.scope.edition == edition));
    if wish.restart {
        let edition = jobs.iter().map(|job| job.scope.edition + 1).max().unwrap_or(0);
        let live = jobs.iter().find(|job| is_live(job)).cloned().map(Box::new);
        return Ok(create(wish, edition, live));
    }
    let Some(job) = own else {
        if let Some(other) = jobs.iter().find(|job| is_live(job)) {
            return Err(other_scope(wish, other));
        }
        return Ok(create(wish, jobs.iter().map(|job| job.scope.edition + 1).max().unwrap_or(0), None));
    };
    if job.scope.max_attempts != wish.max_attempts && !all_succeeded(job) {
        return Err(other_scope(wish, job));
    }
    if is_live(job) {
        return if job.source == wish.source {
            Ok(Meaning::Continue(Box::new(job.clone())))
        } else {
            Err(foreign(wish, job))
        };
    }
    match job.state {
        JobState::Cancelled | JobState::Failed => Ok(create(wish, job.scope.edition + 1, None)),
        _ if may_go_on(wish, job) => {
            let scope = job.scope.clone();
            Ok(Meaning::Create { scope, pool: job.pool.clone(), supersedes: None })
        }
        _ => Ok(Meaning::Rewrite(Box::new(job.clone()))),
    }
}

/// A job that a ceiling stopped goes on, as a new job over the same runs, once a ceiling is raised.
fn may_go_on(wish: &Wish, job: &JobRow) -> bool {
    job.reason.is_some_and(|reason| !reason.is_clean()) && wish.ceilings.loosens(&job.ceilings)
}

fn all_succeeded(job: &JobRow) -> bool {
    job.state == JobState::Finished && job.reason.is_some_and(|reason| reason.is_clean())
}

pub fn is_live(job: &JobRow) -> bool {
    !job.state.is_terminal()
}

fn create(wish: &Wish, edition: u32, supersedes: Option<Box<JobRow>>) -> Meaning {
    let scope = Scope {
        input_sha256: wish.input_sha256.clone(),
        provider: wish.provider.clone(),
        account: wish.account.clone(),
        max_attempts: wish.max_attempts,
        edition,
    };
    let edition = edition.to_string();
    let digest = crate::providers::short_digest(&[&scope.input_sha256, &scope.provider, &scope.account, &edition]);
    Meaning::Create { pool: format!("process/{digest}"), scope, supersedes }
}

fn other_scope(wish: &Wish, job: &JobRow) -> Failure {
    let words =
        |provider: &str, account: &str, attempts| format!("{provider} (account {account}, {attempts} attempts)");
    let stored = words(&job.scope.provider, &job.scope.account, job.scope.max_attempts);
    let asked = words(&wish.provider, &wish.account, wish.max_attempts);
    let what = format!(
        "this file already has the job {} with {stored}, which is {}; the command asks for {asked}",
        job.id, job.state
    );
    Failure::new(Exit::Conflict, what)
        .hint("run it with the options it was made with to continue it, or add --restart to buy everything anew")
}

fn foreign(wish: &Wish, job: &JobRow) -> Failure {
    let what = format!(
        "this file is driven by the {} job {}, which is {}; the command asks for a {} job",
        job.source, job.id, job.state, wish.source
    );
    Failure::new(Exit::Conflict, what).hint(format!("add --source {} to continue it", job.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::{Epoch, JobId, LiveRules, StopReason, Timestamp};

    fn wish() -> Wish {
        Wish {
            input_sha256: "abc".into(),
            provider: "openai".into(),
            account: "a".into(),
            max_attempts: 3,
            source: Source::Backfill,
            ceilings: Ceilings {
                max_rounds: 30,
                max_wallclock_ms: None,
                max_usd_nanos: Some(10),
                max_batch_requests: 9,
                live: LiveRules::default(),
            },
            restart: false,
        }
    }

    fn job(state: JobState, reason: Option<StopReason>) -> JobRow {
        let wish = wish();
        JobRow {
            id: JobId::from_text("job_1"),
            env: "default/dev".into(),
            pool: "process/x".into(),
            source: Source::Backfill,
            state,
            reason,
            detail: None,
            label: "f".into(),
            scope: Scope {
                input_sha256: wish.input_sha256,
                provider: wish.provider,
                account: wish.account,
                max_attempts: 3,
                edition: 0,
            },
            draw: None,
            ceilings: wish.ceilings,
            expected: 1,
            round: 1,
            first_round: 1,
            hold_until: Timestamp::from_millis(0),
            learned_max_requests: None,
            epoch: Epoch::from_number(1),
            holder: None,
            created_at: Timestamp::from_millis(0),
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn s000_r4_the_same_command_continues_a_live_job() {
        for state in [JobState::Created, JobState::Running, JobState::Suspended, JobState::Finishing] {
            let job = job(state, None);
            assert_eq!(meaning(&wish(), std::slice::from_ref(&job)), Ok(Meaning::Continue(Box::new(job))));
        }
    }

    #[test]
    fn a_finished_job_is_only_written_again_until_a_ceiling_is_raised() {
        let capped = job(JobState::Finished, Some(StopReason::SpendCap));
        assert!(matches!(meaning(&wish(), std::slice::from_ref(&capped)), Ok(Meaning::Rewrite(_))));
        let mut more = wish();
        more.ceilings.max_usd_nanos = Some(11);
        let Ok(Meaning::Create { pool, .. }) = meaning(&more, &[capped]) else { panic!("a successor") };
        assert_eq!(pool, "process/x");
        let drained = job(JobState::Finished, Some(StopReason::Drained));
        assert!(matches!(meaning(&more, &[drained]), Ok(Meaning::Rewrite(_))));
    }

    #[test]
    fn s000_r6_restart_beats_everything_and_makes_another_pool() {
        let mut again = wish();
        again.restart = true;
        let live = job(JobState::Running, None);
        let Ok(Meaning::Create { scope, pool, supersedes }) = meaning(&again, &[live]) else { panic!("a new job") };
        assert_eq!(scope.edition, 1);
        assert_ne!(pool, "process/x");
        assert!(supersedes.is_some());
    }

    #[test]
    fn s001_b7_a_foreign_live_job_is_refused_by_name() {
        let mut daemon = job(JobState::Running, None);
        daemon.source = Source::Daemon;
        let failure = meaning(&wish(), &[daemon]).expect_err("refused");
        assert_eq!(failure.exit, Exit::Conflict);
        assert!(failure.what.contains("daemon job job_1") && failure.what.contains("backfill"), "{failure}");
    }

    #[test]
    fn another_scope_of_a_live_job_is_refused_naming_both() {
        let live = job(JobState::Running, None);
        let mut other = wish();
        other.provider = "groq".into();
        let failure = meaning(&other, std::slice::from_ref(&live)).expect_err("refused");
        assert!(failure.what.contains("openai") && failure.what.contains("groq"), "{failure}");
        let mut attempts = wish();
        attempts.max_attempts = 4;
        let failure = meaning(&attempts, &[live]).expect_err("refused");
        assert!(failure.what.contains("3 attempts") && failure.what.contains("4 attempts"), "{failure}");
    }

    #[test]
    fn another_provider_after_the_end_is_told_apart() {
        let done = job(JobState::Finished, Some(StopReason::Drained));
        let mut other = wish();
        other.provider = "groq".into();
        let Ok(Meaning::Create { pool, .. }) = meaning(&other, &[done]) else { panic!("a new job") };
        assert_ne!(pool, "process/x");
    }
}
