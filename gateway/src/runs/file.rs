//! `runs create --file`: a run a line, in pieces that fit one request.
//!
//! Every line gets an idempotency key unless it has one, so that a piece whose answer was lost can be sent again,
//! and a file whose command was killed can be given again with the same `--idempotency-key`.

mod pieces;
mod verdicts;

use super::create::own_key;
use super::now;
use crate::cli::{Common, Progress};
use crate::client::{Client, Request};
use crate::exit::{Exit, Failure};
use crate::signals::Signals;
use pieces::{Line, Piece};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use storage::model::Timestamp;
use tokio::sync::mpsc;
use verdicts::{Report, Verdict};

const TOLD_EVERY: Duration = Duration::from_secs(5);

pub async fn create(client: &Client, path: &Path, key: Option<&str>, common: &Common) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let given = key.is_some();
    let prefix = key.map_or_else(own_key, str::to_owned);
    // A number follows, and the whole may have 255 characters.
    if prefix.is_empty() || prefix.len() > 200 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage("--idempotency-key must be 1 to 200 printable ASCII characters without spaces"));
    }
    let mut pieces = pieces::read(path, &prefix)?;
    let mut report = Report::new(common.output);
    let mut progress = Told { to: common.progress, at: now() };
    let again = format!("to go on without making any run twice, add --idempotency-key {prefix}");
    let stopped = loop {
        let piece = tokio::select! {
            piece = pieces.recv() => piece,
            exit = signals.next() => break Some(exit),
        };
        let Some(piece) = piece else { break None };
        let sent = async {
            match piece {
                Ok(piece) => send(client, piece, &mut report).await,
                Err(failure) => Err(failure),
            }
        };
        let sent = tokio::select! {
            sent = sent => sent,
            exit = signals.next() => break Some(exit),
        };
        if let Err(failure) = sent {
            report.end()?;
            let hint = if given { "run the same command again to go on".to_owned() } else { again };
            let what = format!("{} (lines up to {} are answered)", failure.what, report.answered);
            return Err(Failure { what, hint: Some(hint), ..failure });
        }
        progress.tell(&report);
    };
    report.end()?;
    say!("{} runs made, {} lines refused", report.accepted, report.refused);
    match stopped {
        Some(exit) => {
            say!("stopped; {}", if given { "run the same command again to go on" } else { &again });
            Ok(exit)
        }
        None if report.refused > 0 => Ok(Exit::ItemsFailed),
        None => Ok(Exit::Done),
    }
}

/// Sends a piece; one that is refused as a whole is halved until it is known which line is to blame.
async fn send(client: &Client, piece: Piece, report: &mut Report) -> Result<(), Failure> {
    let mut left = VecDeque::from([piece.lines]);
    while let Some(lines) = left.pop_front() {
        let (bad, good): (Vec<Line>, Vec<Line>) = lines.into_iter().partition(|line| line.refused.is_some());
        if good.is_empty() {
            report.take(bad.iter().filter_map(Verdict::unsent).collect())?;
            continue;
        }
        let request = Request::post("/runs/batch").lines(pieces::body(&good)).repeatable();
        match client.send(&request).await {
            Ok(answer) => {
                let mut verdicts = verdicts::read(&answer.body, &good)?;
                verdicts.extend(bad.iter().filter_map(Verdict::unsent));
                verdicts.sort_by_key(|verdict| verdict.line);
                report.take(verdicts)?;
            }
            Err(failure) if failure.exit == Exit::Usage && failure.problem.is_some() => {
                if let [line] = good.as_slice() {
                    let mut verdicts: Vec<_> = bad.iter().filter_map(Verdict::unsent).collect();
                    verdicts.push(Verdict::whole(line.number, &failure));
                    verdicts.sort_by_key(|verdict| verdict.line);
                    report.take(verdicts)?;
                    continue;
                }
                let mut lines = good;
                lines.extend(bad);
                lines.sort_by_key(|line| line.number);
                let half = lines.split_off(lines.len() / 2);
                left.push_front(half);
                left.push_front(lines);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// When progress was told last.
struct Told {
    to: Progress,
    at: Timestamp,
}

impl Told {
    fn tell(&mut self, report: &Report) {
        let now = now();
        if self.to == Progress::None || now.since(self.at) < TOLD_EVERY {
            return;
        }
        self.at = now;
        if self.to == Progress::Json {
            let (line, accepted, refused) = (report.answered, report.accepted, report.refused);
            say!(
                "{}",
                serde_json::json!({ "event": "progress", "line": line, "accepted": accepted, "refused": refused })
            );
        } else {
            say!("line {}: {} runs made, {} lines refused", report.answered, report.accepted, report.refused);
        }
    }
}

/// Pieces as they are read, a few ahead of the server.
type Pieces = mpsc::Receiver<Result<Piece, Failure>>;
