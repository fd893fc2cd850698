//! `tidegate chaos plan`: kills actors of servers by a plan, at a rate and up to a budget, and tells of each what became
//! of it. Never: goes on where a server does not allow it, or counts a kill that was not carried out.

mod plan;
mod report;

use crate::actors_command::kill;
use crate::cli::{ChaosArgs, ChaosCommand, Common, Remote};
use crate::client::{Client, Page, Request, block_on};
use crate::exit::{Exit, Failure};
use crate::output::List;
use crate::signals::Signals;
use plan::Plan;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use report::{Report, Victim};
use std::path::Path;
use std::time::Duration;
use storage::model::{Clock, SystemClock};
use tokio::time::{interval, timeout};

/// How long whoever was killed last may take to come back.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A server of the plan.
struct Server {
    url: String,
    client: Client,
}

pub fn run(args: &ChaosArgs, common: &Common) -> Result<Exit, Failure> {
    let ChaosCommand::Plan { file, dry_run } = &args.command;
    let plan = read(file)?;
    let servers = servers(&plan, &args.remote)?;
    block_on(async {
        let mut report = Report::default();
        for server in &servers {
            for (name, stands) in tree(server).await?.into_iter().filter(|(name, _)| plan.hits(name)) {
                report.victims.push(Victim::new(&server.url, name, stands));
            }
        }
        if report.victims.is_empty() {
            return Err(Failure::usage(format!("{}: no actor there is one of `targets`", file.display())));
        }
        let mut ended = Exit::Done;
        if !dry_run {
            // When its time is over it ends, with what it has done.
            ended = timeout(plan.at_most(), carry_out(&plan, &servers, &mut report)).await.unwrap_or(Ok(Exit::Done))?;
            look_again(&servers, &mut report).await?;
            say!("{} of {} kills carried out; {} found their victim down", report.kills(), plan.kills, report.down);
        }
        let rows = report.victims.iter().map(Victim::row).collect();
        List { columns: report::COLUMNS, rows, next_after: None }.print(common.output, SystemClock.now())?;
        let all_back = *dry_run || report.victims.iter().all(Victim::is_back);
        Ok(if ended == Exit::Done && !all_back { Exit::ItemsFailed } else { ended })
    })
}

fn read(file: &Path) -> Result<Plan, Failure> {
    let cannot = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| cannot(format!("cannot read it: {error}")))?;
    Plan::parse(&text).map_err(cannot)
}

fn servers(plan: &Plan, remote: &Remote) -> Result<Vec<Server>, Failure> {
    let urls = if plan.servers.is_empty() { vec![remote.server.clone()] } else { plan.servers.clone() };
    let server =
        |url: String| Ok(Server { client: Client::new(&Remote { server: url.clone(), ..remote.clone() })?, url });
    urls.into_iter().map(server).collect()
}

/// The actors of a server by name, as they stand.
async fn tree(server: &Server) -> Result<Vec<(String, report::Stands)>, Failure> {
    let page: Page = server.client.send(&Request::get("/actors")).await?.page()?;
    let named = |actor: crate::client::Object| {
        Some((actor.value["name"].as_str()?.to_owned(), report::Stands::of(&actor.value)))
    };
    Ok(page.data.into_iter().filter_map(named).collect())
}

async fn carry_out(plan: &Plan, servers: &[Server], report: &mut Report) -> Result<Exit, Failure> {
    let mut rng = rand::rngs::StdRng::seed_from_u64(plan.seed);
    let mut signals = Signals::listen()?;
    let mut every = interval(plan.every());
    while report.kills() < plan.kills {
        tokio::select! {
            _ = every.tick() => {}
            exit = signals.next() => return Ok(exit),
        }
        let index = rng.random_range(0..report.victims.len());
        let Some(mode) = plan.modes.choose(&mut rng) else { return Ok(Exit::Done) };
        let victim = &report.victims[index];
        let Some(server) = servers.iter().find(|server| server.url == victim.server) else { continue };
        match kill(&server.client, &victim.actor, *mode).await {
            Ok(_) => report.victims[index].kills += 1,
            // It is being rebuilt just now, or its node is away: the next one is another's turn.
            Err(failure) if failure.exit == Exit::Unreachable => report.unreachable += 1,
            Err(failure) if failure.exit == Exit::Conflict && !says(&failure, "chaos.enabled") => report.down += 1,
            Err(failure) => return Err(failure),
        }
    }
    Ok(Exit::Done)
}

fn says(failure: &Failure, word: &str) -> bool {
    let detail = failure.problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.is_some_and(|detail| detail.contains(word))
}

/// Waits until all are back, as far as their servers are there.
async fn look_again(servers: &[Server], report: &mut Report) -> Result<(), Failure> {
    let mut look = interval(LOOK_EVERY);
    let looks = async {
        loop {
            look.tick().await;
            for server in servers {
                for (name, stands) in tree(server).await? {
                    report.see(&server.url, &name, stands);
                }
            }
            if report.victims.iter().all(Victim::is_back) {
                return Ok::<(), Failure>(());
            }
        }
    };
    match timeout(BACK_WITHIN, looks).await {
        Ok(seen) => seen,
        // What is not back is told as such.
        Err(_) => Ok(()),
    }
}
