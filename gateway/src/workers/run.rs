//! `workers run`: asks for as many runs as there is room for, and has each carried out.
//!
//! The first signal: nothing more is asked for, what is in hand comes to its end, what a request under way still
//! brings is given back. The second one: everything is killed, and the leases lapse.

use super::attempt::{Bench, carry_out, release};
use super::lease::{Lease, Wish, ask};
use crate::cli::WorkerArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::signals::Signals;
use actors::backoff::Backoff;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long one request waits for work: also how long a stop may have to wait for it.
const WAIT: Duration = Duration::from_secs(5);
const AWAY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(10) };

type Asking = Pin<Box<dyn Future<Output = Result<Vec<Lease>, Failure>> + Send>>;

pub async fn work(client: &Client, args: &WorkerArgs) -> Result<Exit, Failure> {
    let signals = Signals::listen()?;
    let worker = name(args)?;
    let (kill, killed) = watch::channel(false);
    let bench = Bench {
        client: client.clone(),
        program: args.program.clone(),
        lease: args.lease,
        grace: args.grace,
        kill: killed,
    };
    let wish = Wish { tasks: args.tasks.clone(), worker, lease: args.lease, wait: WAIT.min(args.lease / 3) };
    say!("worker {} takes runs of {}", wish.worker, wish.tasks.join(", "));
    let room = usize::try_from(args.concurrency).unwrap_or(1);
    let mut shop = Shop {
        bench: Arc::new(bench),
        wish,
        room,
        hands: JoinSet::new(),
        asking: None,
        failures: 0,
        answered: false,
        stopping: None,
    };
    shop.run(signals, &kill).await
}

/// HOST-PID, in the letters that a name may have.
fn name(args: &WorkerArgs) -> Result<String, Failure> {
    if let Some(name) = &args.name {
        let good = crate::tasks::is_name(name);
        let bad = || Failure::usage("--name may have 1 to 128 ASCII letters, digits, `.`, `_` and `-`");
        return good.then(|| name.clone()).ok_or_else(bad);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain: String = host.trim().chars().filter(|c| crate::tasks::is_name(&c.to_string())).take(100).collect();
    let host = if plain.is_empty() { "worker".to_owned() } else { plain };
    Ok(format!("{host}-{}", std::process::id()))
}

/// The worker while it works.
struct Shop {
    bench: Arc<Bench>,
    wish: Wish,
    room: usize,
    hands: JoinSet<Result<(), Failure>>,
    /// The request for work that is under way.
    asking: Option<Asking>,
    failures: u32,
    /// The server has answered once, so that it is worth waiting for when it is away.
    answered: bool,
    /// Why it stops: a signal, or a failure that all runs would share.
    stopping: Option<Result<(), Failure>>,
}

impl Shop {
    async fn run(&mut self, mut signals: Signals, kill: &watch::Sender<bool>) -> Result<Exit, Failure> {
        loop {
            self.ask_if_there_is_room();
            if self.stopping.is_some() && self.hands.is_empty() && self.asking.is_none() {
                return self.stopping.take().unwrap_or(Ok(())).map(|()| Exit::Done);
            }
            let answer = async {
                match &mut self.asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = answer => {
                    self.asking = None;
                    self.take(answer).await;
                }
                Some(done) = self.hands.join_next(), if !self.hands.is_empty() => match done {
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => self.stop(Err(failure)),
                    // A panic in one attempt is that attempt's; its lease lapses.
                    Err(error) => say!("an attempt ended without a verdict: {error}"),
                },
                exit = signals.next() => {
                    if self.stopping.is_some() {
                        // Each attempt kills its program as soon as it hears of this.
                        let _ = kill.send(true);
                        while self.hands.join_next().await.is_some() {}
                        return Ok(exit);
                    }
                    say!("stopping: {} runs are under way; once more to kill them", self.hands.len());
                    self.stop(Ok(()));
                }
            }
        }
    }

    fn stop(&mut self, why: Result<(), Failure>) {
        if self.stopping.is_none() {
            self.stopping = Some(why);
        }
    }

    fn ask_if_there_is_room(&mut self) {
        let free = self.room.saturating_sub(self.hands.len());
        if self.stopping.is_some() || self.asking.is_some() || free == 0 {
            return;
        }
        let (bench, wish, failures) = (self.bench.clone(), self.wish.clone(), self.failures);
        self.asking = Some(Box::pin(async move {
            if failures > 0 {
                let pause = AWAY.after(failures, &mut rand::rng());
                #[expect(clippy::disallowed_methods, reason = "waits for a server that is away")]
                tokio::time::sleep(pause).await;
            }
            ask(&bench.client, &wish, free).await
        }));
    }

    async fn take(&mut self, answer: Result<Vec<Lease>, Failure>) {
        match answer {
            Ok(leases) => {
                if self.failures > 0 {
                    say!("the server is there again");
                }
                (self.failures, self.answered) = (0, true);
                for lease in leases {
                    if self.stopping.is_some() {
                        release(&self.bench.client, &lease).await;
                    } else {
                        self.hands.spawn(carry_out(self.bench.clone(), lease));
                    }
                }
            }
            Err(failure) => {
                let away = matches!(failure.exit, Exit::Unreachable | Exit::TimedOut);
                if !away || !self.answered {
                    return self.stop(Err(failure));
                }
                if self.failures == 0 {
                    say!("the server is away; waiting for it: {}", failure.what);
                }
                self.failures += 1;
            }
        }
    }
}
