//! `tidegate actors`: a server's supervision tree, and killing a part of it.

use crate::cli::{ActorsArgs, ActorsCommand, Common, ModeArg};
use crate::client::{Client, Object, Request, block_on, print_object, print_objects, segment};
use crate::exit::{Exit, Failure};
use crate::output::{Column, List, Record, Room, Row};
use crate::runs::cell;
use serde_json::{Value, json};
use storage::model::{Clock, SystemClock};

const FIELDS: [&str; 8] =
    ["name", "up", "restarts", "injected", "recent_deaths", "restart_p99_seconds", "mailbox_depth", "last_exit"];
const COLUMNS: &[Column] = &[
    Column::new("ACTOR", Room::Whole),
    Column::new("UP", Room::Whole),
    Column::new("RESTARTS", Room::Whole),
    Column::new("WANTED", Room::Whole),
    Column::new("LATELY", Room::Spare),
    Column::new("P99 S", Room::Spare),
    Column::new("MAILBOX", Room::Spare),
    Column::new("LAST EXIT", Room::Whole),
];
const KILLED: [&str; 4] = ["name", "mode", "generation", "node"];

pub fn run(args: &ActorsArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    block_on(async {
        match &args.command {
            ActorsCommand::List => {
                let page = client.send(&Request::get("/actors")).await?.page()?;
                print_objects(&page.data, common.output, SystemClock.now(), list)?;
            }
            ActorsCommand::Kill { name, mode } => {
                let killed = kill(&client, name, *mode).await?;
                print_object(&killed, common.output, SystemClock.now(), whole)?;
            }
        }
        Ok(Exit::Done)
    })
}

/// Asked once: whoever is killed twice dies twice.
pub async fn kill(client: &Client, name: &str, mode: ModeArg) -> Result<Object, Failure> {
    let body = json!({ "mode": mode.word() });
    client.send(&Request::post(format!("/actors/{}/kill", segment(name))).json(body.to_string())).await?.object()
}

fn list(actors: &[Object]) -> List {
    let row =
        |actor: &Object| Row { cells: FIELDS.map(|name| cell(name, &actor.value[name])).to_vec(), json: Value::Null };
    List { columns: COLUMNS, rows: actors.iter().map(row).collect(), next_after: None }
}

fn whole(killed: &Value) -> Record {
    let fields = KILLED.map(|name| (name, cell(name, &killed[name]))).to_vec();
    Record { fields, sections: Vec::new(), json: Value::Null }
}
