//! `runs create TASK`.

use super::{body, print_one, wait};
use crate::cli::{CreateArgs, Output};
use crate::client::{Client, Request};
use crate::exit::{Exit, Failure};
use rand::RngExt;
use std::io::IsTerminal;

/// A key that nobody else makes up: with it a create is safe to send again when its answer was lost.
pub fn own_key() -> String {
    format!("cli-{:032x}", rand::rng().random::<u128>())
}

pub async fn one(client: &Client, args: &CreateArgs, output: Output) -> Result<Exit, Failure> {
    let task = args.task.as_deref().unwrap_or_default();
    let key = args.idempotency_key.clone().unwrap_or_else(own_key);
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage("--idempotency-key must be 1 to 255 printable ASCII characters without spaces"));
    }
    let request = Request::post("/runs").json(body::of(args, task)?).header("idempotency-key", &key).repeatable();
    let again = |failure: Failure| match failure.exit {
        // Whether it was taken is not known; with the same key it will not be taken twice.
        Exit::TimedOut | Exit::Unreachable => {
            failure.hint(format!("to try again without making it twice, add --idempotency-key {key}"))
        }
        _ => failure,
    };
    let answer = client.send(&request).await.map_err(again)?;
    if answer.headers.contains_key("idempotency-replayed") {
        say!("this key has made a run already; here it is");
    }
    let run = answer.object()?;
    if args.wait {
        return wait::created(client, &run, output).await;
    }
    print_one(&run, output)?;
    if std::io::stderr().is_terminal() {
        say!("follow it with `tidegate runs watch {}`", run.text("id"));
    }
    Ok(Exit::Done)
}
