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
const UNIT: usize = 1024;
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
pub struct Seat(Option<OwnedSemaphorePermit>);

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
        if bytes <= SMALL {
            return Ok(Seat(None));
        }
        // What is larger than all of it has all of it.
        let units = u32::try_from(bytes.div_ceil(UNIT).min(self.total)).unwrap_or(u32::MAX);
        match timeout(WAIT, self.units.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Seat(Some(permit))),
            Ok(Err(_)) | Err(_) => {
                let detail = "more large requests come in than there is room for; try again in a moment";
                Err(Problem::new(Code::Overloaded, detail).retry_after(1))
            }
        }
    }
}

impl Seat {
    /// Whether this is a large request, with which one should not be busy for long at a time.
    pub fn is_large(&self) -> bool {
        self.0.is_some()
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
            let first = room.enter(60 * UNIT).now_or_never().expect("there is room").expect("a seat");
            assert!(first.is_large());
            assert!(room.enter(60 * UNIT).now_or_never().is_none(), "it waits");
            let small = room.enter(SMALL).now_or_never().expect("it needs none").expect("a seat");
            assert!(!small.is_large());
            drop(first);
            let all = room.enter(usize::MAX).now_or_never().expect("all of it").expect("a seat");
            assert!(room.enter(SMALL + 1).now_or_never().is_none());
            drop(all);
        });
    }
}
