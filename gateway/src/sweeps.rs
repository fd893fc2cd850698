//! `tidegate sweep …`: the sweeps of a server, seen and done.

use crate::cli::{Common, SweepArgs, SweepCommand};
use crate::client::{Client, Object, Page, Request, block_on, print_objects, segment};
use crate::exit::{Exit, Failure};
use crate::output::{Column, List, Room, Row};
use crate::runs::cell;
use actors::sweeper::Kind;
use serde_json::Value;
use storage::model::{Clock, SystemClock};

const STATUS: &[Column] = &[
    Column::new("KIND", Room::Whole),
    Column::new("LAST", Room::Whole),
    Column::new("TOOK S", Room::Spare),
    Column::new("FOUND", Room::Whole),
    Column::new("IN ALL", Room::Spare),
    Column::new("NODE", Room::Spare),
];

const DONE: &[Column] =
    &[Column::new("KIND", Room::Whole), Column::new("FOUND", Room::Whole), Column::new("TOOK S", Room::Whole)];

pub fn run(args: &SweepArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    let now = SystemClock.now();
    block_on(async {
        match &args.command {
            SweepCommand::Status => {
                let page: Page = client.send(&Request::get("/sweeps")).await?.page()?;
                let names = &["kind", "last_at", "took_seconds", "found", "found_in_all", "node"];
                print_objects(&page.data, common.output, now, |sweeps| table(STATUS, names, sweeps))?;
            }
            SweepCommand::Run { kinds } => {
                let mut done = Vec::new();
                for kind in chosen(kinds) {
                    // Done twice, it does nothing the second time.
                    let request = Request::post(format!("/sweeps/{}/run", segment(kind))).repeatable();
                    done.push(client.send(&request).await?.object()?);
                }
                let names = &["kind", "found", "took_seconds"];
                print_objects(&done, common.output, now, |sweeps| table(DONE, names, sweeps))?;
            }
        }
        Ok(Exit::Done)
    })
}

/// Those that are named; else all but the one that deletes.
fn chosen(kinds: &[String]) -> Vec<&str> {
    if kinds.is_empty() {
        let mends = Kind::ALL.iter().filter(|kind| **kind != Kind::Retention);
        return mends.map(|kind| kind.word()).collect();
    }
    kinds.iter().map(String::as_str).collect()
}

fn table(columns: &'static [Column], names: &[&str], sweeps: &[Object]) -> List {
    let cells = |sweep: &Object| names.iter().map(|name| cell(name, &sweep.value[*name])).collect();
    let rows = sweeps.iter().map(|sweep| Row { cells: cells(sweep), json: Value::Null });
    List { columns, rows: rows.collect(), next_after: None }
}
