//! A simulated LLM batch provider: an HTTP server that speaks the OpenAI files+batches and the Anthropic
//! message-batches protocols, so that everything can be tried and tested without a key or a bill.
//!
//! It keeps a durable journal (a kill at any instant loses nothing that was accepted), lets faults be
//! switched on per account, and keeps a ledger of every item it would have billed: the judge of "nothing
//! was bought twice". Batches advance by the clock alone, so they go on while the server is down.

mod account;
mod anthropic;
mod bodies;
mod calls;
mod control;
mod create;
mod envelope;
mod error;
mod event;
mod faults;
mod http;
mod ids;
mod journal;
mod ledger;
mod lines;
mod openai;
mod outcome;
mod progress;
mod render;
mod spool;
mod summary;
mod world;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix_web::dev::ServerHandle;

pub use faults::Faults;

use world::World;

/// How a simulated provider is set up.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Where the journal and the uploaded files live; one server at a time may use it.
    pub dir: PathBuf,
    /// From the acceptance of a batch to its end.
    pub latency: Duration,
    /// Switches for every account that does not set its own.
    pub faults: Faults,
}

/// Why the simulator could not start, or could not keep its books.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error("simulator storage at {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another simulator is using {dir}")]
    InUse { dir: PathBuf },
    #[error("journal line {line} is not an event")]
    Corrupt {
        line: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("an event could not be written down")]
    Encode(#[source] serde_json::Error),
    #[error("cannot listen on {addr}")]
    Bind {
        addr: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the simulator's thread did not start")]
    Thread,
    #[error("a fault is switched on as name=value, not {text:?}")]
    FaultSyntax { text: String },
    #[error("unknown fault {name:?}; known are {}", faults::known_names())]
    FaultName { name: String },
    #[error("fault {name} cannot be {value:?}")]
    FaultValue { name: &'static str, value: String },
}

impl SimError {
    fn io(path: impl Into<PathBuf>, source: std::io::Error) -> SimError {
        SimError::Io { path: path.into(), source }
    }
}

/// A running server; dropping it stops the server.
#[derive(Debug)]
pub struct Sim {
    addr: SocketAddr,
    server: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Sim {
    /// Opens the directory, binds (port 0 picks a free one) and serves on a thread of its own.
    pub fn start(config: SimConfig, listen: SocketAddr) -> Result<Sim, SimError> {
        let bind = |source| SimError::Bind { addr: listen, source };
        let world = Arc::new(World::open(config)?);
        let listener = TcpListener::bind(listen).map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let (started, running) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("sim".to_owned())
            .spawn(move || {
                let outcome = actix_web::rt::System::new().block_on(async move {
                    let server = http::serve(world, listener)?;
                    // The starter waits for this handle; when it is gone nobody wants the server.
                    if started.send(server.handle()).is_err() {
                        return Ok(());
                    }
                    server.await
                });
                if let Err(error) = outcome {
                    tracing::error!(%error, "simulator stopped");
                }
            })
            .map_err(bind)?;
        let server = running.recv().map_err(|_| SimError::Thread)?;
        tracing::info!(%addr, "simulator listens");
        Ok(Sim { addr, server, thread: Some(thread) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets requests under way finish for a moment, then ends the server.
    pub fn stop(mut self) {
        self.finish(true);
    }

    /// Blocks until the server ends.
    pub fn wait(mut self) {
        self.finish(false);
    }

    fn finish(&mut self, ask: bool) {
        let Some(thread) = self.thread.take() else { return };
        if ask {
            // The command is sent by the call; the future would only report its completion.
            drop(self.server.stop(true));
        }
        if thread.join().is_err() {
            tracing::error!("simulator thread panicked");
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.finish(true);
    }
}
