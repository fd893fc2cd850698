//! An answer that is read while it comes.

use actors::provider::wire::Exchange;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use std::time::Duration;
use tokio::time::timeout;

/// Dropping it cuts the connection.
pub struct Stream {
    exchange: Exchange,
}

/// How a wait for the next piece ended.
#[derive(Debug)]
pub enum Piece {
    Bytes(Bytes),
    End,
    /// The connection broke off before the end.
    Broken(String),
    /// Nothing came for so long.
    Silent,
}

impl Stream {
    pub fn new(exchange: Exchange) -> Stream {
        Stream { exchange }
    }

    pub fn headers(&self) -> &HeaderMap {
        self.exchange.response.headers()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The next piece. May be dropped and asked again: nothing is lost.
    pub async fn next(&mut self, patience: Duration) -> Piece {
        loop {
            match timeout(patience, self.exchange.response.body_mut().frame()).await {
                Err(_) => return Piece::Silent,
                Ok(None) => return Piece::End,
                Ok(Some(Err(error))) => return Piece::Broken(error.to_string()),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Piece::Bytes(data);
                    }
                }
            }
        }
    }
}
