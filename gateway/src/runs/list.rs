//! `runs list`: one page after the other, each printed before the next is asked for.

use super::{now, view};
use crate::cli::{ListArgs, Moment, Output};
use crate::client::{Client, Object, Page, Request};
use crate::exit::{Exit, Failure};
use crate::output::{List, Reader, note, send};
use std::io::IsTerminal;
use storage::model::Timestamp;

/// The most that a server gives at once.
const PAGE_MAX: u64 = 200;

pub async fn print(client: &Client, args: &ListArgs, output: Output) -> Result<Exit, Failure> {
    let mut left = if args.all { u64::MAX } else { u64::from(args.limit) };
    // Once for all pages: a cursor goes with the very filter that it was made under.
    let now = now();
    let times = [args.since, args.until].map(|moment| moment.map(|moment| moment.at(now)));
    let moves = [args.since, args.until].iter().flatten().any(|moment| matches!(moment, Moment::Ago(_)));
    if moves && args.after.is_some() {
        let failure = Failure::usage("--after goes with the very filters of its list, and \"so long ago\" moves on");
        return Err(failure.hint("give --since and --until a date or a time"));
    }
    let mut after = args.after.clone();
    let mut printer = Printer { output, printed: 0, held: Vec::new() };
    loop {
        let page = page(client, args, times, left.min(PAGE_MAX), after.as_deref()).await?;
        left = left.saturating_sub(page.data.len() as u64);
        after = page.next_cursor;
        if printer.take(page.data)? == Reader::Gone {
            return Ok(Exit::Done);
        }
        if left == 0 || after.is_none() {
            break;
        }
    }
    // A cursor goes with its filters, and "since two hours ago" is another one by then.
    let has_more = after.is_some();
    printer.end(after.filter(|_| !moves), has_more)?;
    Ok(Exit::Done)
}

async fn page(
    client: &Client,
    args: &ListArgs,
    [since, until]: [Option<Timestamp>; 2],
    limit: u64,
    after: Option<&str>,
) -> Result<Page, Failure> {
    let request = Request::get("/runs")
        .query("limit", limit)
        .maybe_query("status", args.status)
        .maybe_query("task", args.task.as_deref())
        .maybe_query("queue", args.queue.as_deref())
        .maybe_query("tag", args.tag.as_deref())
        .maybe_query("session_id", args.session.as_deref())
        .maybe_query("accepted_after", since)
        .maybe_query("accepted_before", until)
        .maybe_query("cursor", after);
    client.send(&request).await?.page()
}

/// Prints pages as they come. Only a terminal's table is held back: its columns fit all of its rows.
struct Printer {
    output: Output,
    printed: usize,
    held: Vec<Object>,
}

impl Printer {
    fn take(&mut self, runs: Vec<Object>) -> Result<Reader, Failure> {
        let mut text = String::new();
        match self.output {
            Output::Table if std::io::stdout().is_terminal() => self.held.extend(runs),
            Output::Table => text = view::list(&runs).render(Output::Table, crate::output::Style::Plain),
            Output::Jsonl => text.extend(runs.iter().flat_map(|run| [run.text.get(), "\n"])),
            Output::Json => {
                for run in &runs {
                    text += if self.printed == 0 { "{\"data\":[" } else { "," };
                    text += run.text.get();
                    self.printed += 1;
                }
            }
        }
        send(&text)
    }

    fn end(self, after: Option<String>, has_more: bool) -> Result<(), Failure> {
        match self.output {
            Output::Table => {
                let rows = view::list(&self.held).rows;
                List { columns: view::COLUMNS, rows, next_after: None }.print(self.output, now())?;
            }
            Output::Json => {
                let begin = if self.printed == 0 { "{\"data\":[" } else { "" };
                let next = serde_json::Value::from(after.as_deref());
                send(&format!("{begin}],\"has_more\":{has_more},\"next_after\":{next}}}\n"))?;
            }
            Output::Jsonl => {}
        }
        match after {
            Some(after) if self.output != Output::Json => note(format_args!("there are more: add --after {after}")),
            None if has_more && self.output != Output::Json => note("there are more: add --all, or a higher --limit"),
            _ => {}
        }
        Ok(())
    }
}
