//! Progress on stderr: two bars (items and money) on a terminal, plain lines elsewhere, or JSON events.

use crate::cli::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use storage::model::{Money, Timestamp};
use storage::store::{JobRow, PoolCounts};

const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown; created with the totals that are stored already.
pub enum Reporter {
    Bars { items: ProgressBar, money: ProgressBar, _both: MultiProgress },
    Lines { json: bool, shown: Option<(Timestamp, PoolCounts, i64)> },
    Silent,
}

impl Reporter {
    /// Whether warnings in the log would tear bars apart.
    pub fn wants_quiet(progress: Progress) -> bool {
        progress == Progress::Bar || (progress == Progress::Auto && std::io::stderr().is_terminal())
    }

    pub fn new(progress: Progress, counts: &PoolCounts, cap: Option<Money>) -> Reporter {
        match progress {
            Progress::None => Reporter::Silent,
            Progress::Json => Reporter::Lines { json: true, shown: None },
            Progress::Plain => Reporter::Lines { json: false, shown: None },
            Progress::Auto if !Reporter::wants_quiet(progress) => Reporter::Lines { json: false, shown: None },
            Progress::Auto | Progress::Bar => bars(counts, cap),
        }
    }

    /// Shows where the job is. Called often; decides itself what is worth a line.
    pub fn show(&mut self, job: &JobRow, counts: &PoolCounts, in_flight: usize, now: Timestamp) {
        match self {
            Reporter::Silent => {}
            Reporter::Bars { items, money, .. } => {
                items.set_position(u64::try_from(counts.succeeded + counts.failed).unwrap_or(0));
                items.set_message(format!(
                    "round {}  {} failed  {in_flight} batches in flight",
                    (job.round - job.first_round + 1).max(0),
                    counts.failed
                ));
                let (spent, reserved) =
                    (Money::from_nanos(counts.spent_nanos), Money::from_nanos(counts.reserved_nanos));
                money.set_position(u64::try_from((spent + reserved).nanos()).unwrap_or(0));
                let cap = job.ceilings.max_usd().map_or("no cap".to_owned(), |cap| format!("cap ${cap}"));
                money.set_message(format!("${spent} spent  ${reserved} reserved  {cap}"));
            }
            Reporter::Lines { json, shown } => {
                let worth_a_line = shown.is_none_or(|(at, before, round)| {
                    let done = |counts: &PoolCounts| counts.succeeded + counts.failed;
                    let step = (counts.total / 20).max(1);
                    let moved = done(counts) - done(&before) >= step || round != job.round;
                    moved || (now.since(at) >= PLAIN_EVERY && before != *counts) || now.since(at) >= PLAIN_EVERY * 3
                });
                if worth_a_line {
                    *shown = Some((now, *counts, job.round));
                    say!("{}", line(*json, job, counts, in_flight));
                }
            }
        }
    }

    /// Takes the bars away, so that the summary stands alone.
    pub fn finish(&self) {
        if let Reporter::Bars { items, money, .. } = self {
            // Left where they are: a cap that was not used up is not "100 %".
            items.abandon();
            money.abandon();
        }
    }
}

fn bars(counts: &PoolCounts, cap: Option<Money>) -> Reporter {
    let both = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let items = both.add(ProgressBar::new(u64::try_from(counts.total).unwrap_or(0)));
    items.set_style(style("items {bar:32} {pos}/{len} ({percent}%)  {msg}  [{elapsed_precise}]"));
    let before = u64::try_from(counts.succeeded + counts.failed).unwrap_or(0);
    items.set_position(before);
    if before > 0 {
        let _ = both.println(format!("{before} of {} were settled before", counts.total));
    }
    let length = cap.map_or(0, |cap| u64::try_from(cap.nanos()).unwrap_or(0));
    let money = both.add(ProgressBar::new(length));
    money.set_style(style(if cap.is_some() { "money {bar:32} {percent}%  {msg}" } else { "money {msg}" }));
    Reporter::Bars { items, money, _both: both }
}

fn line(json: bool, job: &JobRow, counts: &PoolCounts, in_flight: usize) -> String {
    let spent = Money::from_nanos(counts.spent_nanos);
    let round = (job.round - job.first_round + 1).max(0);
    if json {
        return serde_json::json!({
            "event": "progress", "job_id": job.id.as_str(), "state": job.state.word(), "round": round,
            "total": counts.total, "succeeded": counts.succeeded, "failed": counts.failed,
            "pending": counts.pending(), "batches_in_flight": in_flight, "spend_usd": spent.to_string(),
        })
        .to_string();
    }
    format!(
        "{}/{} done, {} failed, round {round}, {in_flight} batches in flight, ${spent} spent",
        counts.succeeded + counts.failed,
        counts.total,
        counts.failed
    )
}
