//! The events of one run or job, across connections that break off: each new one goes on after the last event.

use super::events::{Event, Parser};
use super::stream::{Piece, Stream};
use super::{Client, Request, segment};
use crate::exit::{Exit, Failure};
use actors::backoff::Backoff;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A server says something every fifteen seconds; after this much silence the connection counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How long a server may be away: a restart, a move to another node.
const AWAY_MAX: Duration = Duration::from_secs(60);
const BETWEEN_TRIES: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(3) };

pub struct Follow<'c> {
    client: &'c Client,
    path: String,
    stream: Option<Stream>,
    parser: Parser,
    ready: VecDeque<Event>,
    seen: Option<String>,
    /// Connections in a row that brought no event: a server that is about to stop ends each at once.
    barren: u32,
    ended: bool,
}

impl<'c> Follow<'c> {
    pub fn run(client: &'c Client, id: &str) -> Follow<'c> {
        Follow::at(client, format!("/runs/{}/events", segment(id)))
    }

    pub fn job(client: &'c Client, id: &str) -> Follow<'c> {
        Follow::at(client, format!("/jobs/{}/events", segment(id)))
    }

    fn at(client: &'c Client, path: String) -> Follow<'c> {
        Follow {
            client,
            path,
            stream: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            seen: None,
            barren: 0,
            ended: false,
        }
    }

    /// The next event; `None` after the last one of a run that has ended. May be dropped and asked again.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.ready.pop_front() {
                Some(event) if event.name == "end" => self.ended = true,
                Some(event) => {
                    if event.id.is_some() {
                        self.seen.clone_from(&event.id);
                    }
                    return Ok(Some(event));
                }
                None => self.read().await?,
            }
        }
    }

    /// Reads one piece, over a new connection if there is none.
    async fn read(&mut self) -> Result<(), Failure> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.connect().await?;
                self.parser = Parser::default();
                self.stream.insert(stream)
            }
        };
        match stream.next(SILENCE_MAX).await {
            Piece::Bytes(bytes) => {
                let events = self.parser.feed(&bytes).ok_or_else(|| super::unexpected("a stream of events"))?;
                self.barren = if events.is_empty() { self.barren } else { 0 };
                self.ready.extend(events);
            }
            Piece::End | Piece::Broken(_) | Piece::Silent => {
                self.stream = None;
                self.barren += 1;
            }
        }
        Ok(())
    }

    /// Connects, and while the server is away tries again: the run goes on without us.
    #[expect(clippy::disallowed_methods, reason = "waits for a server that is away, for a span of its own")]
    async fn connect(&self) -> Result<Stream, Failure> {
        let mut request = Request::get(self.path.clone());
        if let Some(seen) = &self.seen {
            request = request.header("last-event-id", seen);
        }
        let began = Instant::now();
        if self.barren > 0 {
            let pause = BETWEEN_TRIES.after(self.barren, &mut rand::rng());
            tokio::time::sleep(pause).await;
        }
        let mut failures = 0;
        loop {
            let failure = match self.client.stream(&request).await {
                Ok(stream) => return Ok(stream),
                Err(failure) => failure,
            };
            let away = matches!(failure.exit, Exit::Unreachable | Exit::TimedOut);
            // The first connection of all fails like any other call.
            if !away || self.seen.is_none() || began.elapsed() > AWAY_MAX {
                return Err(failure);
            }
            failures += 1;
            if failures == 1 {
                say!("the server is away; waiting for it");
            }
            let pause = BETWEEN_TRIES.after(failures, &mut rand::rng());
            tokio::time::sleep(pause).await;
        }
    }
}
