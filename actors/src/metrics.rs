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
pub use names::{NAMES_MAX, OTHER, told_as};

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

/// Histograms with their buckets.
pub fn histograms() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    let histograms = CATALOGUE.iter().filter(|metric| metric.kind == Type::Histogram);
    histograms.map(|metric| (metric.name, metric.buckets))
}

#[cfg(test)]
mod tests;
