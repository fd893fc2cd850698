//! `tidegate workers`: pull workers as the server sees them, and one of our own.

mod attempt;
mod feed;
mod heart;
mod lease;
mod program;
mod run;

use crate::cli::{Common, WorkersArgs, WorkersCommand};
use crate::client::{Client, Object, Request, block_on, print_objects};
use crate::exit::{Exit, Failure};
use crate::output::{Column, List, Room, Row};
use crate::runs::cell;
use serde_json::Value;
use storage::model::{Clock, SystemClock};

const COLUMNS: &[Column] = &[
    Column::new("NAME", Room::Whole),
    Column::new("RUNNING", Room::Whole),
    Column::new("LAST SEEN", Room::Whole),
    Column::new("TASKS", Room::Cut),
];

pub fn run(args: &WorkersArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    block_on(async {
        match &args.command {
            WorkersCommand::List => {
                let page = client.send(&Request::get("/workers")).await?.page()?;
                print_objects(&page.data, common.output, SystemClock.now(), list)?;
                Ok(Exit::Done)
            }
            WorkersCommand::Run(args) => run::work(&client, args).await,
        }
    })
}

fn list(workers: &[Object]) -> List {
    let row = |worker: &Object| {
        let names = ["name", "running", "last_seen_at", "tasks"];
        Row { cells: names.map(|name| cell(name, &worker.value[name])).to_vec(), json: Value::Null }
    };
    List { columns: COLUMNS, rows: workers.iter().map(row).collect(), next_after: None }
}
