//! Looks that cost the more the more others do: each takes at most one part in so many of the time, and comes after ten
//! seconds in any case.

use super::runs::now;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest time that a look is put off: it may have taken long because the store was away, and who waits for what it would
/// have found does not wait a hundred times as long.
const LATEST: Duration = Duration::from_secs(10);

/// When a look is worth its cost again.
#[derive(Debug)]
pub struct Seldom {
    part: u32,
    next_at: Mutex<Option<Instant>>,
}

/// What is looked at for runs.
#[derive(Debug)]
pub struct Looks {
    /// What waits in each queue.
    pub queues: Seldom,
    /// What this node leases, and what nodes that are gone do. PostgreSQL walks over all that was leased since its
    /// last vacuum for that, which at tens of thousands of runs a second is most of the table.
    pub own: Seldom,
    pub lost: Seldom,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks { queues: Seldom::one_in(50), own: Seldom::one_in(100), lost: Seldom::one_in(50) }
    }
}

impl Seldom {
    pub fn one_in(part: u32) -> Seldom {
        Seldom { part, next_at: Mutex::default() }
    }

    /// Looks, unless that is too early. One that fails is made again the next time.
    pub async fn look<T, E>(&self, look: impl Future<Output = Result<T, E>>) -> Result<Option<T>, E> {
        let began = now();
        if self.next_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| began < at) {
            return Ok(None);
        }
        let found = look.await?;
        self.took(began, now().duration_since(began));
        Ok(Some(found))
    }

    /// There is something to be found: the next look is not put off.
    pub fn at_once(&self) {
        *self.next_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn took(&self, began: Instant, span: Duration) {
        *self.next_at.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(began + span.saturating_mul(self.part).min(span + LATEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::ready;

    #[tokio::test]
    async fn a_look_that_took_long_is_put_off_until_somebody_knows_that_there_is_something() {
        let seldom = Seldom::one_in(50);
        let look = || seldom.look(ready(Ok::<_, ()>(7)));
        assert_eq!(look().await, Ok(Some(7)));
        seldom.took(now(), Duration::from_secs(60));
        assert_eq!(look().await, Ok(None));
        seldom.at_once();
        assert_eq!(look().await, Ok(Some(7)));
    }

    #[test]
    fn a_look_through_an_outage_is_not_put_off_for_long() {
        let (seldom, began) = (Seldom::one_in(100), now());
        let next = |span| {
            seldom.took(began, span);
            seldom.next_at.lock().expect("nobody panicked").expect("there is a next one").duration_since(began)
        };
        assert_eq!(next(Duration::from_millis(47)), Duration::from_millis(4_700));
        assert_eq!(next(Duration::from_secs(10)), Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_look_that_failed_is_made_again() {
        let seldom = Seldom::one_in(1_000_000_000);
        assert_eq!(seldom.look(ready(Err::<(), _>("away"))).await, Err("away"));
        assert_eq!(seldom.look(ready(Ok::<_, &str>(()))).await, Ok(Some(())));
    }
}
