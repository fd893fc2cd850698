//! Whether the store is there, as a probe beside all other work sees it: callers are refused at once while it is
//! away, instead of waiting for connections that cannot be made.

use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Store;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tracing::warn;

/// How often it is looked, and how often while it is away.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A database that is well answers an empty question in a millisecond.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the probe has last seen; clones look at the same.
#[derive(Debug, Clone)]
pub struct Presence {
    here: watch::Receiver<bool>,
    doubt: Arc<Notify>,
}

impl Presence {
    /// Looks for as long as anybody wants to know; rings when the store is back.
    pub(super) fn start(store: Store, doorbell: Arc<Notify>, runtime: &Handle) -> Presence {
        let (sender, here) = watch::channel(true);
        let doubt = Arc::new(Notify::new());
        if store.is_sqlite() {
            // Nothing to look for; the word stays what it is.
            return Presence { here, doubt };
        }
        runtime.spawn(look(store, sender, doubt.clone(), doorbell));
        Presence { here, doubt }
    }

    pub fn is_away(&self) -> bool {
        !*self.here.borrow()
    }

    /// Resolves when the store goes away, and at once while it is.
    pub async fn gone(&self) {
        if self.here.clone().wait_for(|here| !here).await.is_err() {
            // Nobody looks any more: it will not be known.
            std::future::pending().await
        }
    }

    /// Some work could not reach the store: look now.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }
}

async fn look(store: Store, sender: watch::Sender<bool>, doubt: Arc<Notify>, doorbell: Arc<Notify>) {
    while !store.is_closed() {
        let began = now();
        let answer = timeout(ANSWER_WITHIN, store.probe()).await;
        let answered = matches!(answer, Ok(Ok(())));
        let was_here = *sender.borrow();
        let here = is_here(was_here, answered, now().duration_since(began));
        if was_here && !here {
            let why = match answer {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(())) | Err(_) => format!("it has not answered for {ANSWER_WITHIN:?}"),
            };
            warn!(why, "the store is away; requests are refused until it answers");
            store.distrust_connections();
            sender.send_replace(false);
        } else if here && !was_here {
            warn!("the store answers again");
            sender.send_replace(true);
            doorbell.notify_one();
        }
        let pause = if here { LOOK_EVERY } else { LOOK_AGAIN_AFTER };
        tokio::select! {
            () = sender.closed() => return,
            // Without a doubt it is looked all the same.
            _ = timeout(pause, doubt.notified()) => {}
        }
    }
}

/// What one look says. A process that was itself held up for longer than the look may take has seen nothing.
fn is_here(was_here: bool, answered: bool, took: Duration) -> bool {
    answered || (was_here && took > ANSWER_WITHIN * 3 / 2)
}

#[expect(clippy::disallowed_methods, reason = "spans how long an answer takes")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_brings_it_back_and_only_our_own_delay_excuses_it() {
        let (soon, late) = (Duration::from_millis(3), ANSWER_WITHIN + Duration::from_millis(5));
        for was_here in [true, false] {
            assert!(is_here(was_here, true, late));
            assert!(!is_here(was_here, false, soon), "refused");
            assert!(!is_here(was_here, false, late), "silent");
        }
        assert!(is_here(true, false, ANSWER_WITHIN * 2), "it was us who did not look");
        assert!(!is_here(false, false, ANSWER_WITHIN * 2));
    }
}
