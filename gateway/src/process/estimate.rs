//! What a file would cost and how many batches it would take, without a store and without a call.

use super::import::reserve;
use crate::cli::Output;
use crate::exit::Failure;
use crate::input::{Form, Limits, Scan, requests};
use crate::stdout::print;
use actors::price::PriceTable;
use std::collections::BTreeMap;
use std::path::Path;
use storage::model::Money;

/// Low and worst cost of one try of every line.
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    pub low: Money,
    pub worst: Money,
    /// Models without a known price, and lines of known models whose worst cost cannot be bounded.
    pub unpriced: BTreeMap<String, u64>,
    pub unbounded: u64,
    pub first_unbounded_line: Option<u64>,
}

impl Estimate {
    /// Reads the file once more and adds up.
    pub fn of(path: &Path, prices: &PriceTable) -> Result<Estimate, Failure> {
        let usage = |error: crate::input::InputError| Failure::usage(error.to_string());
        let mut lines = requests(path, &Limits::default()).map_err(usage)?;
        let mut estimate = Estimate::default();
        while let Some(request) = lines.next_request().map_err(usage)? {
            let Some(rates) = prices.rates(&request.model) else {
                *estimate.unpriced.entry(request.model.clone().into_owned()).or_default() += 1;
                continue;
            };
            estimate.low += rates.low_estimate(request.body.len() as u64);
            match reserve(&request, prices) {
                Some(bound) => estimate.worst += bound,
                None => {
                    estimate.unbounded += 1;
                    estimate.first_unbounded_line.get_or_insert(request.line_no);
                }
            }
        }
        Ok(estimate)
    }

    pub fn is_bounded(&self) -> bool {
        self.unpriced.is_empty() && self.unbounded == 0
    }

    /// Refuses a cap that could not be kept (an unknown price would count as nothing).
    pub fn require_bounds(&self) -> Result<(), Failure> {
        if let Some((model, lines)) = self.unpriced.iter().next() {
            let failure =
                Failure::usage(format!("--max-usd needs known prices: {lines} lines use `{model}`, which has none"));
            return Err(failure.hint("leave the cap out, or name a price table that has it under [prices] file"));
        }
        if let Some(line) = self.first_unbounded_line {
            let lines = self.unbounded;
            let failure = Failure::usage(format!(
                "--max-usd needs a bound for every line: {lines} lines have none, first line {line}"
            ));
            return Err(failure.hint("set max_tokens in these requests; images, files and tools have no bound by size"));
        }
        Ok(())
    }
}

/// Batches that the packs of a file split into: by the caller's limit and the provider's.
pub fn planned_batches(scan: &Scan, max_batch_requests: u32) -> u64 {
    let most: u64 = match scan.form {
        Form::OpenAi => 50_000,
        Form::Anthropic => 100_000,
    };
    let most = most.min(u64::from(max_batch_requests));
    let by_count: u64 = scan.packs.iter().map(|pack| pack.count.div_ceil(most)).sum();
    let by_bytes = scan.bytes.div_ceil(190_000_000);
    by_count.max(by_bytes)
}

/// `--dry-run`: prints, and has written and sent nothing (invariant 21).
pub fn dry_run(
    scan: &Scan,
    estimate: &Estimate,
    batches: u64,
    prices: &PriceTable,
    output: Output,
) -> Result<(), Failure> {
    let known = |money: Money, known: bool| known.then(|| money.to_string());
    let unpriced: Vec<_> = estimate.unpriced.keys().cloned().collect();
    let report = serde_json::json!({
        "dry_run": true,
        "items": scan.count,
        "batches": batches,
        "packs": scan.packs.iter().map(|pack| serde_json::json!({
            "url": pack.url, "model": pack.model, "items": pack.count,
        })).collect::<Vec<_>>(),
        "low_usd": known(estimate.low, unpriced.is_empty()),
        "worst_usd": known(estimate.worst, estimate.is_bounded()),
        "unpriced_models": unpriced,
        "prices": { "source": prices.source(), "date": prices.date(), "version": prices.version() },
    });
    match output {
        Output::Json | Output::Jsonl => print(&format!("{report}\n")),
        Output::Table => {
            let show = |value: &serde_json::Value| value.as_str().map_or("—".to_owned(), |usd| format!("${usd}"));
            let mut text = format!("items    {}\nbatches  {batches}\n", scan.count);
            for pack in &scan.packs {
                text += &format!("  {:>8}  {}  {}\n", pack.count, pack.model, pack.url);
            }
            text += &format!("low      {}   (input only, 4 bytes a token)\n", show(&report["low_usd"]));
            text +=
                &format!("worst    {}   (one try of each line, all of its max_tokens)\n", show(&report["worst_usd"]));
            text += &format!("prices   {} of {}\n", prices.source(), prices.date());
            if !unpriced.is_empty() {
                text += &format!("no price is known for: {}\n", unpriced.join(", "));
            }
            print(&text)
        }
    }
}
