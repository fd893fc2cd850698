//! `tidegate sim`: the simulated provider by itself, until a signal stops it.

use crate::cli::{Common, SimArgs};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Room, Row, note};
use crate::providers::sim_folder;
use crate::session;
use crate::signals::Signals;
use crate::sim::{Faults, Sim, SimConfig, SimError};
use crate::stdout::print;
use serde_json::json;
use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use storage::model::{Clock, SystemClock};

const FAULTS: &[Column] = &[Column::new("FAULT", Room::Whole), Column::new("WHAT IT DOES", Room::Whole)];

pub fn run(args: &SimArgs, common: &Common, config: &Config) -> Result<Exit, Failure> {
    if args.list_faults {
        faults_list().print(common.output, SystemClock.now())?;
        return Ok(Exit::Done);
    }
    let faults = faults(&config.sim.faults, &args.faults)?;
    let dir = match &args.state {
        Some(dir) => dir.clone(),
        None => sim_folder(common)?,
    };
    let runtime = session::runtime()?;
    // Before the line on stdout: whoever reads it may send a signal at once.
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    note(format_args!("keeping the simulated provider's state in {}", dir.display()));
    let latency = args.latency.unwrap_or(Duration::from_secs_f64(config.sim.latency_seconds));
    let sim = Sim::start(SimConfig { dir, latency, faults }, args.listen).map_err(failure)?;
    print(&format!("listening on http://{}\n", sim.addr()))?;
    let reachable = reachable(sim.addr());
    note(format_args!("OPENAI_BASE_URL=http://{reachable}/v1 OPENAI_API_KEY=any"));
    note(format_args!("ANTHROPIC_BASE_URL=http://{reachable} ANTHROPIC_API_KEY=any"));
    runtime.block_on(signals.next());
    note("stopping; its batches go on by the clock and are there at the next start");
    sim.stop();
    Ok(Exit::Done)
}

fn faults_list() -> List {
    let row = |(name, what): &(&str, &str)| Row {
        cells: vec![Cell::text(*name), Cell::text(*what)],
        json: json!({ "name": name, "what": what }),
    };
    List { columns: FAULTS, rows: Faults::NAMES.iter().map(row).collect(), next_after: None }
}

/// The configuration's faults with those of the command line over them.
fn faults(configured: &[String], given: &[String]) -> Result<Faults, Failure> {
    let mut faults = Faults::default();
    let configured = configured.iter().map(|fault| ("sim.faults", fault));
    for (from, fault) in configured.chain(given.iter().map(|fault| ("--fault", fault))) {
        let bad =
            |error| Failure::usage(format!("{from}: {error}")).hint("`tidegate sim --list-faults` shows them all");
        faults.set(fault).map_err(bad)?;
    }
    Ok(faults)
}

fn failure(error: SimError) -> Failure {
    let exit = match &error {
        SimError::InUse { .. } => Exit::Conflict,
        SimError::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse => Exit::Conflict,
        SimError::Bind { .. } => Exit::Usage,
        SimError::Io { .. } | SimError::Corrupt { .. } | SimError::Encode(_) => Exit::StoreFailed,
        SimError::FaultSyntax { .. } | SimError::FaultName { .. } | SimError::FaultValue { .. } => Exit::Usage,
        SimError::Thread => Exit::Unexpected,
    };
    let mut what = format!("cannot start the simulated provider: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        what += &format!(": {cause}");
        source = cause.source();
    }
    let failure = Failure::new(exit, what);
    match error {
        SimError::InUse { .. } => failure.hint("stop the process that uses it, or name another folder with --state"),
        SimError::Bind { .. } => failure.hint("name another address with --listen; port 0 picks a free port"),
        SimError::Io { .. } | SimError::Corrupt { .. } => failure.hint("name another folder with --state"),
        _ => failure,
    }
}

/// An address that a client on this machine can use: a wildcard is none.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;

    #[test]
    fn the_command_lines_faults_lie_over_the_configurations() {
        let configured = ["rate_limits=3".to_owned(), "crlf=true".to_owned()];
        let both = faults(&configured, &["rate_limits=1".to_owned()]).expect("faults");
        assert_eq!((both.rate_limits, both.crlf), (Some(1), Some(true)));
        let unknown = faults(&[], &["rate_limit=1".to_owned()]).expect_err("unknown");
        assert_eq!(unknown.exit, Exit::Usage);
        assert!(unknown.what.starts_with("--fault: unknown fault"), "{unknown}");
    }

    #[test]
    fn every_fault_is_listed_with_what_it_does() {
        let list = faults_list();
        assert_eq!(list.rows.len(), Faults::NAMES.len());
        let text = list.render(Output::Table, Style::Plain);
        assert!(text.contains("reorder\tresult lines are shuffled"), "{text}");
    }

    #[test]
    fn a_wildcard_address_is_shown_as_one_that_can_be_called() {
        for (bound, shown) in [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            assert_eq!(reachable(bound.parse().expect("an address")).to_string(), shown);
        }
    }
}
