//! A TCP proxy between a node and its database that holds everything back or breaks everything off when it is told
//! to. What was held back is delivered late, as after a partition that heals, and not lost.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Pass,
    /// A black hole: connections stay open, new ones are taken, and nothing comes through either way.
    Drop,
    /// All are closed, and new ones as soon as they are made.
    Cut,
}

/// See the module's first lines. Its threads end with this process.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    wire: Mutex<Wire>,
    changed: Condvar,
    /// Both ends of each connection, by its number.
    open: Mutex<HashMap<u64, [TcpStream; 2]>>,
}

impl FaultProxy {
    pub fn to(upstream: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (wire, changed, open) = (Mutex::new(Wire::Pass), Condvar::new(), Mutex::default());
        let shared = Arc::new(Shared { upstream, wire, changed, open });
        let proxy = FaultProxy { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.carry(number as u64, client));
            }
        });
        proxy
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// From now on.
    pub fn set(&self, wire: Wire) {
        *lock(&self.shared.wire) = wire;
        self.shared.changed.notify_all();
        if wire == Wire::Cut {
            let ends = std::mem::take(&mut *lock(&self.shared.open));
            ends.into_values().flatten().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Waits while nothing comes through; false when the connection has to end.
    fn comes_through(&self) -> bool {
        let held = self.changed.wait_while(lock(&self.wire), |wire| *wire == Wire::Drop);
        *held.unwrap_or_else(PoisonError::into_inner) == Wire::Pass
    }

    fn carry(self: Arc<Shared>, number: u64, client: TcpStream) {
        if !self.comes_through() {
            return;
        }
        let Ok(server) = TcpStream::connect(self.upstream) else { return };
        let ends = || -> std::io::Result<[TcpStream; 2]> {
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            Ok([client.try_clone()?, server.try_clone()?])
        };
        let (Ok(ours), Ok(theirs)) = (ends(), ends()) else { return };
        lock(&self.open).insert(number, ours);
        let [from_client, to_server] = theirs;
        let back = self.clone();
        std::thread::spawn(move || back.pump(number, server, client));
        self.pump(number, from_client, to_server);
    }

    /// One direction of a connection; its end is that of both.
    fn pump(&self, number: u64, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(got @ 1..) = from.read(&mut bytes) {
            if !self.comes_through() || to.write_all(&bytes[..got]).is_err() {
                break;
            }
        }
        // An end is held back like everything else.
        self.comes_through();
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        lock(&self.open).remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A proxy before a server that sends back what it gets.
    fn before_an_echo() -> FaultProxy {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let proxy = FaultProxy::to(echo.local_addr().expect("its address"));
        std::thread::spawn(move || {
            for stream in echo.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        proxy
    }

    fn connect(proxy: &FaultProxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.addr()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time to wait");
        stream
    }

    fn hears(mut stream: &TcpStream, words: &[u8]) -> bool {
        let mut heard = vec![0; words.len()];
        stream.read_exact(&mut heard).is_ok() && heard == words
    }

    #[test]
    fn what_a_black_hole_holds_back_comes_late_and_whole() {
        let proxy = before_an_echo();
        let stream = connect(&proxy);
        (&stream).write_all(b"one").expect("sent");
        assert!(hears(&stream, b"one"));
        proxy.set(Wire::Drop);
        let other = connect(&proxy);
        (&stream).write_all(b"two").expect("sent");
        (&other).write_all(b"three").expect("sent");
        for silent in [&stream, &other] {
            silent.set_read_timeout(Some(Duration::from_millis(50))).expect("a time to wait");
            assert!(!hears(silent, b"t"), "nothing comes through");
            silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a time to wait");
        }
        proxy.set(Wire::Pass);
        assert!(hears(&stream, b"two") && hears(&other, b"three"));
    }

    #[test]
    fn a_cut_closes_what_is_open_and_what_is_opened_until_it_passes_again() {
        let proxy = before_an_echo();
        let stream = connect(&proxy);
        (&stream).write_all(b"one").expect("sent");
        assert!(hears(&stream, b"one"));
        proxy.set(Wire::Cut);
        let is_closed = |mut stream: &TcpStream| matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_));
        assert!(is_closed(&stream) && is_closed(&connect(&proxy)));
        proxy.set(Wire::Drop);
        proxy.set(Wire::Pass);
        let stream = connect(&proxy);
        (&stream).write_all(b"two").expect("sent");
        assert!(hears(&stream, b"two"));
    }
}
