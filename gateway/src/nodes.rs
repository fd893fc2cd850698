//! `tidegate nodes`: who is there, and letting one of them go.

use crate::cli::{Common, NodesArgs, NodesCommand};
use crate::client::{Client, Object, Request, block_on, print_object, print_objects, segment};
use crate::exit::{Exit, Failure};
use crate::output::{Column, List, Record, Room, Row};
use crate::runs::cell;
use serde_json::Value;
use storage::model::{Clock, SystemClock};

const FIELDS: [&str; 7] = ["id", "state", "host", "pid", "level", "lease_until", "this"];
const COLUMNS: &[Column] = &[
    Column::new("NODE", Room::Whole),
    Column::new("STATE", Room::Whole),
    Column::new("HOST", Room::Cut),
    Column::new("PID", Room::Whole),
    Column::new("LEVEL", Room::Whole),
    Column::new("LEASE UNTIL", Room::Whole),
    Column::new("ANSWERS", Room::Whole),
];

pub fn run(args: &NodesArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    block_on(async {
        match &args.command {
            NodesCommand::List => {
                let page = client.send(&Request::get("/nodes")).await?.page()?;
                print_objects(&page.data, common.output, SystemClock.now(), list)?;
            }
            NodesCommand::Drain { id } => {
                // Asked twice, a node drains once.
                let request = Request::post(format!("/nodes/{}/drain", segment(id))).repeatable();
                let node = client.send(&request).await?.object()?;
                print_object(&node, common.output, SystemClock.now(), whole)?;
            }
        }
        Ok(Exit::Done)
    })
}

fn list(nodes: &[Object]) -> List {
    let row =
        |node: &Object| Row { cells: FIELDS.map(|name| cell(name, &node.value[name])).to_vec(), json: Value::Null };
    List { columns: COLUMNS, rows: nodes.iter().map(row).collect(), next_after: None }
}

fn whole(node: &Value) -> Record {
    let fields = FIELDS.map(|name| (name, cell(name, &node[name]))).to_vec();
    Record { fields, sections: Vec::new(), json: Value::Null }
}
