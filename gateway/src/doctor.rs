//! `tidegate doctor`: says what is well, what deserves a look, and what is broken, each with a way to mend it.
//!
//! It sends nothing, and neither makes nor migrates a store; with `--online` it asks each provider for one page of its
//! batches, and looks up the hosts of webhooks.

mod setup;
mod machine;
mod state;
mod tasks;
mod prices;
mod provider;
mod rules;

use crate::cli::{Common, DoctorArgs, Output};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Room, Row, Style};
use crate::session;
use crate::stdout::print;
use serde_json::json;
use storage::model::{Clock, SystemClock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    verdict: Verdict,
    name: String,
    what: String,
    fix: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, what: impl Into<String>) -> Check {
        Check { verdict: Verdict::Ok, name: name.into(), what: what.into(), fix: None }
    }

    fn warn(name: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { verdict: Verdict::Warn, name: name.into(), what: what.into(), fix: Some(fix.into()) }
    }

    fn fail(name: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { verdict: Verdict::Fail, name: name.into(), what: what.into(), fix: Some(fix.into()) }
    }

    /// What stopped an attempt, with its own hint where it has one.
    fn failed(name: impl Into<String>, failure: Failure, fix: &str) -> Check {
        Check::fail(name, failure.what, failure.hint.unwrap_or_else(|| fix.to_owned()))
    }
}

const COLUMNS: &[Column] = &[
    Column::new("STATUS", Room::Whole),
    Column::new("CHECK", Room::Whole),
    Column::new("WHAT", Room::Whole),
    Column::new("FIX", Room::Whole),
];

/// Settings that are wrong are one finding among others; the rest is looked at as if nothing were set.
pub fn run(args: &DoctorArgs, common: &Common, config: Result<Config, Failure>) -> Result<Exit, Failure> {
    let runtime = session::runtime()?;
    let (config, settings) = match config {
        Ok(config) => (config, setup::configuration(common)),
        Err(failure) => (Config::default(), setup::refused(failure)),
    };
    let mut checks = vec![setup::binary(), settings];
    checks.extend(setup::faults(&config));
    let looked = runtime.block_on(state::checks(common, &config));
    checks.extend(looked.checks);
    checks.extend(session::store_url(common).ok().and_then(|url| machine::disk(&url)));
    checks.push(machine::open_files());
    checks.extend(machine::ports(&config, looked.in_use));
    checks.extend(runtime.block_on(tasks::checks(common, &config, args.online)));
    checks.extend(prices::checks(&config, SystemClock.now()));
    let ask = provider::Ask { online: args.online, common, config: &config, doubted: looked.doubted.as_ref() };
    checks.extend(runtime.block_on(ask.checks()));
    checks.extend(rules::check(&args.ops));
    report(&checks, common.output)?;
    Ok(verdict(&checks))
}

fn verdict(checks: &[Check]) -> Exit {
    if checks.iter().any(|check| check.verdict == Verdict::Fail) { Exit::Unexpected } else { Exit::Done }
}

fn report(checks: &[Check], output: Output) -> Result<(), Failure> {
    let style = Style::of_stdout(SystemClock.now());
    match (output, style) {
        (Output::Table, Style::Terminal { .. }) => print(&for_a_person(checks)),
        _ => print(&list(checks).render(output, style)),
    }
}

/// A line for each check and one for its fix; nothing is cut.
fn for_a_person(checks: &[Check]) -> String {
    let widest = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    // What is said may quote file names and providers, so it goes through a cell like everything that is shown.
    let shown = |words: &str| Cell::text(words).show(Style::Plain);
    for Check { verdict, name, what, fix } in checks {
        text += &format!("{:4}  {name:widest$}  {}\n", verdict.word(), shown(what));
        if let Some(fix) = fix {
            text += &format!("      {:widest$}  fix: {}\n", "", shown(fix));
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    text + &format!("\n{} ok, {} warn, {} fail\n", count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail))
}

fn list(checks: &[Check]) -> List {
    let row = |Check { verdict, name, what, fix }: &Check| Row {
        cells: vec![Cell::text(verdict.word()), Cell::text(name), Cell::text(what), Cell::maybe(fix.as_deref())],
        json: json!({ "status": verdict.word(), "check": name, "what": what, "fix": fix }),
    };
    List { columns: COLUMNS, rows: checks.iter().map(row).collect(), next_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_check_fails_the_command() {
        let mut checks = vec![Check::ok("a", "x"), Check::warn("b", "y", "z")];
        assert_eq!(verdict(&checks), Exit::Done);
        checks.push(Check::fail("c", "y", "z"));
        assert_eq!(verdict(&checks), Exit::Unexpected);
    }

    #[test]
    fn each_check_is_an_object_and_a_line_with_its_fix() {
        let checks = [Check::ok("binary", "tidegate 1"), Check::warn("store", "in use", "wait")];
        let json = list(&checks).render(Output::Jsonl, Style::Plain);
        let lines = "{\"check\":\"binary\",\"fix\":null,\"status\":\"ok\",\"what\":\"tidegate 1\"}\n\
            {\"check\":\"store\",\"fix\":\"wait\",\"status\":\"warn\",\"what\":\"in use\"}\n";
        assert_eq!(json, lines);
        let escape = for_a_person(&[Check::ok("a", "\u{1b}[31m")]);
        assert!(!escape.contains('\u{1b}'), "{escape}");
        let text = "ok    binary  tidegate 1\nwarn  store   in use\n              fix: wait\n\n1 ok, 1 warn, 0 fail\n";
        assert_eq!(for_a_person(&checks), text);
    }
}
