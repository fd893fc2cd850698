//! What becomes of a body that nobody read to its end: its connection is closed.
//!
//! The framework itself reads a chunked body on without any deadline once its handler has answered, so that a
//! client could hold a connection for ever. It closes only while the body is still held when the answer has
//! been written; so the answer holds it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

/// So much is read to its end for the connection's sake, if it comes at once.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_millis(100);

/// A request's body, shared between its reader and the guard.
#[derive(Clone)]
pub(super) struct Unread(Rc<RefCell<Source>>);

struct Source {
    payload: Payload,
    ended: bool,
    broken: bool,
}

impl Unread {
    /// Puts itself between the request and its body, if there is one.
    pub fn watch(request: &mut ServiceRequest) -> Option<Unread> {
        let payload = request.take_payload();
        if matches!(payload, Payload::None) {
            return None;
        }
        let unread = Unread(Rc::new(RefCell::new(Source { payload, ended: false, broken: false })));
        request.set_payload(Payload::Stream { payload: Box::pin(unread.clone()) });
        Some(unread)
    }

    /// Whether nobody will read what is left.
    fn is_left(&self) -> bool {
        Rc::strong_count(&self.0) == 1 && !self.0.borrow().ended
    }

    /// Whether the body broke off, so that nobody can say where the next request begins.
    pub fn is_broken(&self) -> bool {
        self.0.borrow().broken
    }

    /// Reads a small rest that is there already.
    pub async fn drain(&self) {
        if !self.is_left() {
            return;
        }
        let mut rest = Unread(Rc::clone(&self.0));
        let drained = async {
            let mut bytes = 0;
            while let Some(Ok(chunk)) = rest.next().await {
                bytes += chunk.len();
                if bytes > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        // Too slow is as good as too much: the connection is closed.
        let _ = tokio::time::timeout(DRAIN_WITHIN, drained).await;
    }

    /// Keeps the body until the answer has been written, so that the connection is closed after it.
    pub fn hold(self, body: BoxBody) -> BoxBody {
        if self.is_left() { BoxBody::new(Holding { body, _unread: self }) } else { body }
    }
}

impl Stream for Unread {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut source = self.0.borrow_mut();
        let polled = Pin::new(&mut source.payload).poll_next(cx);
        source.broken |= matches!(polled, Poll::Ready(Some(Err(_))));
        source.ended |= source.broken || matches!(polled, Poll::Ready(None));
        polled
    }
}

struct Holding {
    body: BoxBody,
    _unread: Unread,
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}
