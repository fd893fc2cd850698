//! The metrics: one table of them, from which come their names, their help, their buckets and their documents.
//!
//! Labels are words that are known beforehand, or names that somebody has configured; never ids. What anybody can
//! name is told by itself up to [`NAMES_MAX`] names, and together beyond.

mod entry;
mod catalogue;
mod names;
pub mod cluster;

pub use catalogue::*;
pub use entry::{Label, Metric, Type, Unit, Words};
pub use names::{NAMES_MAX, OTHER, reserve, told_as};

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Registers every help text with the installed recorder.
pub fn describe() {
    for metric in CATALOGUE {
        let unit = match metric.unit {
            Unit::Seconds => metrics::Unit::Seconds,
            Unit::Bytes => metrics::Unit::Bytes,
            Unit::Count | Unit::Nanodollars | Unit::Info => metrics::Unit::Count,
        };
        match metric.kind {
            Type::Counter => describe_counter!(metric.name, unit, metric.help),
            Type::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Type::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// Series of one counter that are told of from the beginning; with more of them it says too little of each.
const BEGUN_MAX: usize = 24;

/// Tells of every counter whose series are known beforehand that it is 0: what appears as 1 has not risen, for whoever
/// asks how much it has.
pub fn begin() {
    for metric in CATALOGUE.iter().filter(|metric| metric.kind == Type::Counter && !metric.name.starts_with("process_"))
    {
        for labels in series_of(metric).unwrap_or_default() {
            metrics::counter!(metric.name, &labels).increment(0);
        }
    }
}

/// Every combination of the words of its labels, if they are all known and not too many.
fn series_of(metric: &Metric) -> Option<Vec<Vec<(&'static str, &'static str)>>> {
    let mut series = vec![Vec::new()];
    for label in metric.labels {
        let Words::Fixed(words) = label.words else { return None };
        let with = |begun: &Vec<_>, word| [begun.as_slice(), &[(label.name, word)]].concat();
        series = series.iter().flat_map(|begun| words().into_iter().map(move |word| with(begun, word))).collect();
    }
    (series.len() <= BEGUN_MAX).then_some(series)
}

/// Histograms with their buckets.
pub fn histograms() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    let histograms = CATALOGUE.iter().filter(|metric| metric.kind == Type::Histogram);
    histograms.map(|metric| (metric.name, metric.buckets))
}

#[cfg(test)]
mod tests;
