//! Keeps a lease while its run is carried out, and hears from the server what is to become of the run.

use super::lease::{Lease, is_lost};
use crate::client::Client;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// What the server wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    GoOn,
    Cancel,
    /// The run is somebody else's, or soon will be.
    Lost,
}

/// Beats until it is dropped.
pub struct Heart {
    told: watch::Sender<Told>,
    beating: AbortHandle,
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

impl Heart {
    #[expect(clippy::disallowed_methods, reason = "spans the time since the lease was renewed")]
    pub fn start(client: Client, lease: Lease, span: Duration) -> Heart {
        let (told, _) = watch::channel(Told::GoOn);
        let tell = told.clone();
        let leased_at = Instant::now();
        let beating = tokio::spawn(async move {
            let every = span / 3;
            let mut ticks = interval_at(leased_at + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut renewed_at = leased_at;
            loop {
                ticks.tick().await;
                let asked_at = Instant::now();
                // Late answers do not help: after this the lease may be another's.
                let left = (renewed_at + span).saturating_duration_since(asked_at);
                let beat = lease.say(&client, "heartbeat", json!({ "lease_seconds": span.as_secs_f64() }));
                match tokio::time::timeout(left, beat).await {
                    Ok(Ok(answer)) => {
                        renewed_at = asked_at;
                        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                        if answer["cancel_requested"] == true {
                            hear(&tell, Told::Cancel);
                        }
                    }
                    Ok(Err(failure)) if is_lost(&failure) => return hear(&tell, Told::Lost),
                    // The server is away; the lease holds for a while without it.
                    Ok(Err(_)) if renewed_at.elapsed() < span => {}
                    Ok(Err(_)) | Err(_) => return hear(&tell, Told::Lost),
                }
            }
        });
        Heart { told, beating: beating.abort_handle() }
    }

    pub fn told(&self) -> Told {
        *self.told.borrow()
    }

    /// For others who learn that the lease is gone.
    pub fn teller(&self) -> watch::Sender<Told> {
        self.told.clone()
    }

    /// Until the server wants anything but going on.
    pub async fn wants_an_end(&self) -> Told {
        let mut told = self.told.subscribe();
        // The sender is ours, so that waiting cannot fail.
        let end = told.wait_for(|told| *told != Told::GoOn).await;
        end.map_or(Told::Lost, |told| *told)
    }
}

/// What is lost stays lost.
pub fn hear(told: &watch::Sender<Told>, now: Told) {
    told.send_if_modified(|told| {
        let news = *told != now && *told != Told::Lost;
        if news {
            *told = now;
        }
        news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_lease_is_not_found_again() {
        let (told, heard) = watch::channel(Told::GoOn);
        hear(&told, Told::Cancel);
        assert_eq!(*heard.borrow(), Told::Cancel);
        hear(&told, Told::Lost);
        hear(&told, Told::Cancel);
        assert_eq!(*heard.borrow(), Told::Lost);
    }
}
