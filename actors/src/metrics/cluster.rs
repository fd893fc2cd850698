//! Gauges of the whole cluster: one node tells each, whoever holds the role, so that rules take the `max` of them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A label's name and what it says.
pub type Label = (&'static str, String);
type Series = HashMap<Vec<Label>, metrics::Gauge>;

/// What has been told of each gauge, so that it is told too when there is no more of it.
static TOLD: LazyLock<Mutex<HashMap<&'static str, Series>>> = LazyLock::new(Mutex::default);

/// Sets all series of a gauge; those that were set before and are not given now become 0.
pub fn tell(gauge: &'static str, values: impl IntoIterator<Item = (Vec<Label>, f64)>) {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let series = told.entry(gauge).or_default();
    let values: HashMap<_, _> = values.into_iter().collect();
    for handle in series.iter().filter(|(labels, _)| !values.contains_key(*labels)).map(|(_, handle)| handle) {
        handle.set(0.0);
    }
    for (labels, value) in values {
        let handle = series.entry(labels).or_insert_with_key(|labels| metrics::gauge!(gauge, labels));
        handle.set(value);
    }
}

/// The same for a gauge without labels.
pub fn tell_one(gauge: &'static str, value: f64) {
    tell(gauge, [(Vec::new(), value)]);
}

/// Another node tells them now.
pub fn leave(gauges: &[&'static str]) {
    for gauge in gauges {
        tell(gauge, []);
    }
}
