//! `tidegate runs`: makes runs on a server, looks at them, waits for them, and stops them.

mod body;
mod create;
mod file;
mod list;
mod logs;
mod view;
mod wait;

pub(crate) use view::cell;

use crate::cli::{Common, RunsArgs, RunsCommand};
use crate::client::{Client, Object, Request, block_on, print_object, print_objects, segment};
use crate::exit::{Exit, Failure};
use storage::model::{Clock, SystemClock, Timestamp};

pub fn run(args: &RunsArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    let output = common.output;
    block_on(async {
        match &args.command {
            RunsCommand::Create(args) => match &args.file {
                Some(path) => file::create(&client, path, args.idempotency_key.as_deref(), common).await,
                None => create::one(&client, args, output).await,
            },
            RunsCommand::List(args) => list::print(&client, args, output).await,
            RunsCommand::Get { id } => {
                let run = client.send(&Request::get(path(id, ""))).await?.object()?;
                print_object(&run, output, now(), view::whole)?;
                Ok(Exit::Done)
            }
            RunsCommand::Watch { id } => wait::watch(&client, id, output).await,
            RunsCommand::Logs(args) => logs::print(&client, args).await,
            RunsCommand::Wait { ids, timeout } => wait::wait(&client, ids, *timeout, output).await,
            RunsCommand::Cancel { ids } => {
                each(ids, output, async |id| {
                    // A run that is cancelled twice is cancelled once.
                    client.send(&Request::post(path(id, "/cancel")).repeatable()).await?.object()
                })
                .await
            }
            RunsCommand::Replay { id } => {
                let key = create::own_key();
                let request = Request::post(path(id, "/replay")).header("idempotency-key", &key).repeatable();
                let run = client.send(&request).await?.object()?;
                print_one(&run, output)?;
                Ok(Exit::Done)
            }
        }
    })
}

fn path(id: &str, below: &str) -> String {
    format!("/runs/{}{below}", segment(id))
}

fn now() -> Timestamp {
    SystemClock.now()
}

/// One run after something was done to it: a row, or all of it.
fn print_one(run: &Object, output: crate::cli::Output) -> Result<(), Failure> {
    match output {
        crate::cli::Output::Table => view::list(std::slice::from_ref(run)).print(output, now()),
        _ => print_object(run, output, now(), view::whole),
    }
}

/// Does the same to each; what fails is told and does not keep the others from it. The first failure decides
/// about the exit code.
async fn each(
    ids: &[String],
    output: crate::cli::Output,
    work: impl AsyncFn(&str) -> Result<Object, Failure>,
) -> Result<Exit, Failure> {
    let mut done = Vec::new();
    let mut failed: Option<Failure> = None;
    for id in ids {
        match work(id).await {
            Ok(run) => done.push(run),
            Err(failure) => {
                let failure = Failure { what: format!("{id}: {}", failure.what), ..failure };
                match &failed {
                    None => failed = Some(failure),
                    Some(_) => say!("{failure}"),
                }
            }
        }
    }
    print_objects(&done, output, now(), view::list)?;
    failed.map_or(Ok(Exit::Done), Err)
}
