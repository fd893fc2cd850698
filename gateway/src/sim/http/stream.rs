//! Long answers that are made on a blocking thread and streamed, and connections that break on purpose.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::mpsc;

use crate::sim::SimError;
use crate::sim::error::ApiError;
use crate::sim::event::Dialect;

/// Chunks that wait for a slow reader.
const WAITING: usize = 4;
/// What was written before a cut gets this long to leave.
const BEFORE_CUT: Duration = Duration::from_millis(30);

/// A second handle on a connection's socket, to close it whatever the server would still send.
#[derive(Debug, Clone)]
pub(in crate::sim) struct KillSwitch(Arc<TcpStream>);

impl KillSwitch {
    pub fn new(socket: TcpStream) -> KillSwitch {
        KillSwitch(Arc::new(socket))
    }

    fn pull(&self) {
        // It fails only when the peer was faster, which is as good.
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "connection was closed already");
        }
    }
}

/// Closes the connection; the response goes nowhere, the server merely wants one.
pub(in crate::sim) fn hang_up(connection: Option<&KillSwitch>) -> HttpResponse {
    if let Some(connection) = connection {
        connection.pull();
    }
    HttpResponse::InternalServerError().force_close().finish()
}

/// Runs work that reads files on a thread that may block.
pub(in crate::sim) async fn off_thread<T: Send + 'static>(
    dialect: Dialect,
    work: impl FnOnce() -> Result<T, SimError> + Send + 'static,
) -> Result<T, ApiError> {
    match web::block(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ApiError::broken(dialect, &error)),
        Err(_) => Err(ApiError::internal(dialect)),
    }
}

/// Where a download breaks off.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Cut {
    pub after: u64,
    pub connection: KillSwitch,
}

type Chunk = Result<Bytes, io::Error>;
type Emit<'a> = &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>;

/// Streams what `produce` emits, in bounded memory.
pub(in crate::sim) fn download(
    produce: impl FnOnce(Emit) -> io::Result<()> + Send + 'static,
    cut: Option<Cut>,
) -> impl Stream<Item = Chunk> + 'static {
    let (sender, receiver) = mpsc::channel::<Chunk>(WAITING);
    drop(actix_web::rt::task::spawn_blocking(move || {
        let mut emit =
            |chunk: Vec<u8>| sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into());
        match produce(&mut emit) {
            Ok(()) => {}
            // The reader went away.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                tracing::warn!(%error, "simulator could not finish a download");
                drop(sender.blocking_send(Err(error)));
            }
        }
    }));
    stream::unfold(Reader { receiver, cut, broken: false }, Reader::next)
}

struct Reader {
    receiver: mpsc::Receiver<Chunk>,
    cut: Option<Cut>,
    broken: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Chunk, Reader)> {
        if let Some(cut) = self.cut.as_ref().filter(|cut| cut.after == 0 || self.broken) {
            crate::sim::ids::dawdle(BEFORE_CUT).await;
            cut.connection.pull();
            return None;
        }
        let mut chunk = self.receiver.recv().await?;
        if let (Some(cut), Ok(bytes)) = (&mut self.cut, &mut chunk) {
            if bytes.len() as u64 >= cut.after {
                bytes.truncate(usize::try_from(cut.after).unwrap_or(usize::MAX));
                self.broken = true;
            } else {
                cut.after -= bytes.len() as u64;
            }
        }
        Some((chunk, self))
    }
}
