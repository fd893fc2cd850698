//! Kills actors on purpose while a job runs, for those who want to see that it holds.
//!
//! `TIDEGATE_CHAOS="actors=batch_poller+sweeper+job_drive modes=panic+stop+hang kills=50 every=100ms"` kills
//! every named actor in every named mode `kills` times, in turn, and prints what became of them. A server also
//! has `drainer` and, for every slot from 0, `worker-0` and so on.

use crate::cli::duration;
use crate::exit::Failure;
use actors::Running;
use actors::supervisor::{ChildStatus, KillChild, Killed, Misbehave, Tree};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::interval;

/// Those that every command or a server has, besides the workers.
const ACTORS: [&str; 4] = ["batch_poller", "sweeper", "job_drive", "drainer"];

/// What to kill, how, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    actors: Vec<String>,
    modes: Vec<Misbehave>,
    kills: u64,
    every: Duration,
}

/// A plan that is being carried out.
pub struct Chaos {
    task: tokio::task::JoinHandle<()>,
    done: Arc<AtomicU64>,
    planned: u64,
}

impl Chaos {
    /// Starts what `TIDEGATE_CHAOS` asks for; nothing when it is not set.
    pub fn start(running: &Running) -> Result<Option<Chaos>, Failure> {
        let Some(text) = std::env::var("TIDEGATE_CHAOS").ok().filter(|text| !text.is_empty()) else { return Ok(None) };
        let plan = parse(&text).map_err(|why| Failure::usage(format!("TIDEGATE_CHAOS: {why}")))?;
        let planned = plan.kills * (plan.actors.len() * plan.modes.len()) as u64;
        let done = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(carry_out(plan, running.supervisor.clone(), done.clone()));
        Ok(Some(Chaos { task, done, planned }))
    }

    /// Ends it, and prints one line per actor on stderr.
    pub async fn report(self, running: &Running) {
        self.task.abort();
        say!("chaos: {} of {} kills carried out", self.done.load(Ordering::SeqCst), self.planned);
        for child in running.supervisor.send(Tree).await.unwrap_or_default() {
            say!("chaos: {}", line(&child));
        }
    }
}

async fn carry_out(plan: Plan, supervisor: actix::Addr<actors::supervisor::Supervisor>, done: Arc<AtomicU64>) {
    let mut every = interval(plan.every);
    every.tick().await;
    let there = supervisor.send(Tree).await.unwrap_or_default();
    if let Some(name) = plan.actors.iter().find(|name| !there.iter().any(|child| child.name == name.as_str())) {
        return say!("chaos: there is no {name} here");
    }
    for _ in 0..plan.kills {
        for mode in &plan.modes {
            for name in &plan.actors {
                // An actor that is down just now is killed at the next opportunity, so that none is skipped.
                loop {
                    every.tick().await;
                    let up = supervisor.send(Tree).await.unwrap_or_default();
                    // Counted like faults, so that what a crash loop leads to is seen too.
                    let kill = KillChild { name: name.clone(), mode: *mode, counts: true };
                    let is_up = up.iter().any(|child| child.name == name && child.up);
                    if is_up && matches!(supervisor.send(kill).await, Ok(Killed::Told { .. })) {
                        break;
                    }
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn parse(text: &str) -> Result<Plan, String> {
    let mut plan = Plan {
        actors: ["batch_poller", "sweeper", "job_drive"].map(str::to_owned).to_vec(),
        modes: vec![Misbehave::Panic, Misbehave::Stop, Misbehave::Hang],
        kills: 1,
        every: Duration::from_millis(100),
    };
    for part in text.split_whitespace() {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not KEY=VALUE"))?;
        match key {
            "actors" => plan.actors = value.split('+').map(str::to_owned).collect(),
            "modes" => {
                let mode =
                    |word| Misbehave::from_word(word).ok_or_else(|| format!("`{word}` is not panic, stop or hang"));
                plan.modes = value.split('+').map(mode).collect::<Result<_, _>>()?;
            }
            "kills" => plan.kills = value.parse().map_err(|_| format!("`{value}` is not a number of kills"))?,
            "every" => plan.every = duration(value)?,
            _ => return Err(format!("`{key}` is not one of actors, modes, kills, every")),
        }
    }
    match plan.actors.iter().find(|name| !is_actor(name)) {
        Some(name) => Err(format!("`{name}` is not one of {}, worker-N", ACTORS.join(", "))),
        None => Ok(plan),
    }
}

fn is_actor(name: &str) -> bool {
    ACTORS.contains(&name) || name.strip_prefix("worker-").is_some_and(|slot| slot.parse::<u16>().is_ok())
}

fn line(child: &ChildStatus) -> String {
    let mut text = format!("{} restarts={}", child.name, child.restarts);
    for cause in ["panic", "stop", "hang"] {
        let mut spans: Vec<_> =
            child.latencies.iter().filter(|(why, _)| *why == cause).map(|(_, span)| *span).collect();
        spans.sort_unstable();
        let p99 = spans.get((spans.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
        text += &format!(" {cause}={} {cause}_p99_ms={}", spans.len(), p99.as_millis());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read_and_nonsense_is_refused() {
        let plan = parse("actors=sweeper modes=panic+hang kills=50 every=20ms").expect("a plan");
        assert_eq!((plan.actors.len(), plan.modes.len(), plan.kills), (1, 2, 50));
        let plan = parse("actors=drainer+worker-0+worker-15").expect("those of a server");
        assert_eq!(plan.actors, ["drainer", "worker-0", "worker-15"]);
        for bad in ["kill=1", "modes=nap", "actors=boss", "actors=worker-", "actors=worker-x", "every=soon", "x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
