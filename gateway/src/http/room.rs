//! Room for large requests: how much of them is in memory at once, however many come together. Who finds no room
//! is not read from until there is some, so that it waits on the wire and not in here.

use super::problem::{Code, Problem};
use bytes::Bytes;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bodies up to this size need no room; the number of connections and of waiting requests bounds them.
const SMALL: usize = 8 * 1024;
/// A request takes up to ten times its body while it is worked on; this counts bodies.
const ROOM: usize = 1024 * 1024;
/// What a body of unsaid length counts as, until more of it has come.
pub const UNSAID: usize = ROOM;
const UNIT: usize = 1024;
/// So many requests find room at least, however large: one client that sends slowly must not have all of it.
const AT_LEAST: usize = 2;
/// How long a request waits for room.
const WAIT: Duration = Duration::from_secs(10);

/// Shared by clones.
#[derive(Debug, Clone)]
pub struct Room {
    units: Arc<Semaphore>,
    total: usize,
}

/// A request's share of the room, for as long as it is kept.
#[derive(Debug)]
pub struct Seat {
    permit: Option<OwnedSemaphorePermit>,
}

/// A body that has its place in the room.
#[derive(Debug)]
pub struct Body {
    pub bytes: Bytes,
    pub seat: Seat,
}

impl Default for Room {
    fn default() -> Room {
        Room::of(ROOM)
    }
}

impl Room {
    fn of(bytes: usize) -> Room {
        let total = bytes / UNIT;
        Room { units: Arc::new(Semaphore::new(total)), total }
    }

    /// A place for a body of so many bytes; `overloaded` when there is none for too long.
    pub async fn enter(&self, bytes: usize) -> Result<Seat, Problem> {
        let mut seat = Seat { permit: None };
        self.grow(&mut seat, bytes).await?;
        Ok(seat)
    }

    /// What more a body needs that has come to so many bytes. Of several that want all of the room at once, those
    /// that wait too long are told so and leave theirs to the others.
    pub async fn grow(&self, seat: &mut Seat, bytes: usize) -> Result<(), Problem> {
        let held = seat.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = self.share_of(bytes).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let units = self.units.clone().acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
        let Ok(Ok(permit)) = timeout(WAIT, units).await else {
            let detail = "more large requests come in than there is room for; try again in a moment";
            return Err(Problem::new(Code::Overloaded, detail).retry_after(1));
        };
        match &mut seat.permit {
            Some(held) => held.merge(permit),
            None => seat.permit = Some(permit),
        }
        Ok(())
    }

    /// In units. What is larger than all of the room has all of it.
    fn share_of(&self, bytes: usize) -> usize {
        let wanted = bytes.div_ceil(UNIT);
        match bytes {
            ..=SMALL => 0,
            _ if wanted > self.total => self.total,
            _ => wanted.min(self.total / AT_LEAST),
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn large_bodies_wait_for_room_and_small_ones_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let room = Room::of(100 * UNIT);
            let enter = || room.enter(60 * UNIT).now_or_never();
            let seats: Vec<Seat> = (0..AT_LEAST).map(|_| enter().expect("there is room").expect("a seat")).collect();
            assert!(enter().is_none(), "it waits");
            let small = room.enter(SMALL).now_or_never().expect("it needs none").expect("a seat");
            assert!(small.permit.is_none());
            drop(seats);
            let all = room.enter(usize::MAX).now_or_never().expect("all of it").expect("a seat");
            assert!(room.enter(SMALL + 1).now_or_never().is_none());
            drop(all);
        });
    }

    #[test]
    fn one_that_comes_to_more_than_it_counted_as_waits_for_the_rest() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let room = Room::of(100 * UNIT);
            let mut large = room.enter(100 * UNIT).await.expect("a seat");
            let beside = room.enter(100 * UNIT).await.expect("another");
            room.grow(&mut large, 99 * UNIT).now_or_never().expect("it has that").expect("a seat");
            assert!(room.grow(&mut large, 101 * UNIT).now_or_never().is_none(), "the other one is there");
            drop(beside);
            room.grow(&mut large, 101 * UNIT).now_or_never().expect("there is room").expect("all of it");
            assert!(room.enter(SMALL + 1).now_or_never().is_none());
            drop(large);
            assert!(room.enter(usize::MAX).now_or_never().is_some(), "all of it came back");
        });
    }
}
