//! Stores what attempts write, in groups, with back-pressure on the writers.

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use storage::store::NewChunk;
use storage::{Class, Store};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

const GROUP: usize = 64;
/// Pieces that wait; each is at most 64 KiB.
const WAITING: usize = 256;

enum Order {
    Append(NewChunk),
    /// Answered once all before it is durable.
    Flush(oneshot::Sender<()>),
}

/// The door through which output is stored.
#[derive(Debug, Clone)]
pub struct Recorder(mpsc::Sender<Order>);

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Order")
    }
}

impl Recorder {
    pub(super) fn start(store: Store, runtime: &Handle) -> Recorder {
        let (orders, queue) = mpsc::channel(WAITING);
        runtime.spawn(work(store, queue));
        Recorder(orders)
    }

    /// Takes a piece; waits while too many are not stored yet.
    pub async fn append(&self, chunk: NewChunk) {
        let _ = self.0.send(Order::Append(chunk)).await;
    }

    /// Returns once everything that was taken before is durable.
    pub async fn flush(&self) {
        let (done, stored) = oneshot::channel();
        if self.0.send(Order::Flush(done)).await.is_ok() {
            let _ = stored.await;
        }
    }
}

async fn work(store: Store, mut queue: mpsc::Receiver<Order>) {
    let mut orders = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut orders, GROUP).await > 0 {
        let (mut chunks, mut flushed) = (Vec::new(), Vec::new());
        for order in orders.drain(..) {
            match order {
                Order::Append(chunk) => chunks.push(chunk),
                Order::Flush(done) => flushed.push(done),
            }
        }
        if AssertUnwindSafe(append(&store, &chunks)).catch_unwind().await.is_err() {
            error!(chunks = chunks.len(), "storing output panicked");
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

async fn append(store: &Store, chunks: &[NewChunk]) {
    loop {
        match store.append_output(chunks, store.now()).await {
            Ok(()) => return,
            Err(error) if error.class() == Class::Retryable => {
                warn!(%error, "output cannot be stored now; its writers wait");
                #[expect(clippy::disallowed_methods, reason = "waits for the store to come back")]
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return error!(%error, chunks = chunks.len(), "output cannot be stored"),
        }
    }
}
