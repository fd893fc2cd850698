//! Closes connections that hold a socket without using it.
//!
//! The framework has a deadline for the first head of a connection and for one that is idle. It has none for a
//! later head that comes byte by byte, none for a client that stops reading its answer, and no bound on how
//! many one address may open. The guard says here what each connection is doing.

mod activity;

use std::any::Any;
use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use bytes::Bytes;
use dashmap::DashMap;
use tracing::{debug, warn};

use super::rate::Uptime;
use activity::{Activity, Doing};

/// Between two looks at all connections.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two lines of the log about addresses with too many connections.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// An answer up to this size fits into buffers, and is as good as sent.
const SMALL_ANSWER: u64 = 32 * 1024;

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From one answer to the next request's head; has to be longer than the server's own keep-alive.
    pub between: Duration,
    /// How long a client may take nothing of an answer that is there for it.
    pub reading: Duration,
    /// Open at once from one address.
    pub per_address_max: u32,
}

/// All open connections of a server.
#[derive(Debug)]
pub struct Connections {
    patience: Patience,
    uptime: Uptime,
    next: AtomicU64,
    /// When a flood was last told of, in whole seconds after the start.
    told_at: AtomicU64,
    open: DashMap<u64, Arc<Connection>>,
    addresses: DashMap<IpAddr, u32>,
}

/// One connection, with a second handle on its socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    activity: Activity,
    uptime: Uptime,
}

/// Kept among the data of its connection, and gone with it.
struct Opened {
    id: u64,
    address: IpAddr,
    connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Connections {
    pub fn new(patience: Patience) -> Arc<Connections> {
        Arc::new(Connections {
            patience,
            uptime: Uptime::begin(),
            next: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
            open: DashMap::new(),
            addresses: DashMap::new(),
        })
    }

    /// For the server's `on_connect`. Where the socket cannot be had, the connection is not watched.
    pub fn opened(self: &Arc<Connections>, io: &dyn Any, data: &mut Extensions) {
        let Some(stream) = io.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
        let taken = stream.peer_addr().and_then(|peer| Ok((peer.ip(), stream.as_fd().try_clone_to_owned()?)));
        match taken {
            Ok((address, socket)) => data.insert(self.admit(address, socket.into())),
            Err(error) => {
                debug!(%error, "a connection is not watched");
                None
            }
        };
    }

    fn admit(self: &Arc<Connections>, address: IpAddr, socket: TcpStream) -> Opened {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let activity = Activity::new(self.uptime.now());
        let connection = Arc::new(Connection { socket, activity, uptime: self.uptime });
        self.open.insert(id, Arc::clone(&connection));
        let count = {
            let mut count = self.addresses.entry(address).or_insert(0);
            *count += 1;
            *count
        };
        if count > self.patience.per_address_max {
            if self.may_tell() {
                warn!(%address, "an address has too many connections");
            }
            connection.close();
        }
        Opened { id, address, connection, connections: Arc::clone(self) }
    }

    /// Whether a flood may be told of: it is not for a stranger to fill the log.
    fn may_tell(&self) -> bool {
        // Never 0, which says that nothing was told of yet.
        let now = self.uptime.now().as_secs() + 1;
        let told_at = self.told_at.load(Ordering::Relaxed);
        let due = told_at == 0 || now >= told_at + TELL_EVERY.as_secs();
        due && self.told_at.compare_exchange(told_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Looks for ever. Spawn it beside the server, and abort it with it.
    pub async fn watch(self: Arc<Connections>) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            self.look(self.uptime.now());
        }
    }

    /// Closes what has been stuck for too long, and says how many these were.
    fn look(&self, now: Duration) -> usize {
        let stuck = self.open.iter().filter(|entry| entry.value().activity.is_stuck(now, &self.patience));
        let stuck: Vec<Arc<Connection>> = stuck.map(|entry| Arc::clone(entry.value())).collect();
        for connection in &stuck {
            debug!(connection = ?connection.socket, "a connection is stuck");
            connection.close();
        }
        stuck.len()
    }
}

impl Connection {
    /// The watched connection of a request.
    pub fn of(request: &actix_web::HttpRequest) -> Option<Arc<Connection>> {
        request.conn_data::<Opened>().map(|opened| Arc::clone(&opened.connection))
    }

    /// A request is there, and we are at work.
    pub fn works(&self) {
        self.activity.set(Doing::Working, self.uptime.now());
    }

    /// An answer is there; from now on it is the client's turn to take it.
    pub fn answers(self: Arc<Connection>, body: BoxBody) -> BoxBody {
        match body.size() {
            BodySize::Stream => {}
            BodySize::Sized(bytes) if bytes > SMALL_ANSWER => {}
            _ => {
                self.waits();
                return body;
            }
        }
        BoxBody::new(Taken { body, connection: self })
    }

    fn waits(&self) {
        self.activity.set(Doing::Waiting, self.uptime.now());
    }

    /// The server's own handle sees the end and cleans up. It fails only when the peer was faster.
    fn close(&self) {
        let closed: io::Result<()> = self.socket.shutdown(Shutdown::Both);
        if let Err(error) = closed {
            debug!(%error, "a connection was closed already");
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.connections.open.remove(&self.id);
        if let Some(mut count) = self.connections.addresses.get_mut(&self.address) {
            *count -= 1;
        }
        self.connections.addresses.remove_if(&self.address, |_, count| *count == 0);
    }
}

/// A large answer on its way. The framework asks for more only when the client has taken what there was.
struct Taken {
    body: BoxBody,
    connection: Arc<Connection>,
}

impl MessageBody for Taken {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_next(cx);
        let doing = match &polled {
            Poll::Pending => Doing::Working,
            Poll::Ready(Some(_)) => Doing::Sending,
            Poll::Ready(None) => Doing::Waiting,
        };
        this.connection.activity.set(doing, this.connection.uptime.now());
        polled
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.connection.waits();
    }
}

#[cfg(test)]
mod tests;
