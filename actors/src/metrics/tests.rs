use super::*;
use std::collections::BTreeSet;

/// What the name of a metric says besides its unit and its type.
fn stem(metric: &Metric) -> &str {
    let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    name.strip_suffix(metric.unit.suffix()).unwrap_or_default()
}

fn is_snake_case(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    plain && !name.starts_with('_') && !name.ends_with('_') && !name.contains("__")
}

#[test]
fn names_begin_with_whose_they_are_and_end_with_their_unit_and_type() {
    for metric in CATALOGUE {
        let Metric { name, kind, .. } = metric;
        assert!(name.starts_with("tidegate_") || name.starts_with("process_"), "{name}");
        assert!(is_snake_case(name), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Type::Counter, "{name}: counters and only they are totals");
        assert!(!stem(metric).is_empty(), "{name} does not say that its unit is {}", metric.unit.word());
        let other_units = ["_seconds", "_bytes", "_nanodollars", "_info", "_milliseconds", "_ms", "_usd", "_percent"];
        assert!(!other_units.iter().any(|unit| stem(metric).ends_with(unit)), "{name} has two units");
        for word in ["_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(word), "{name} is what a histogram's series are named");
        }
    }
}

#[test]
fn names_are_there_once_and_help_is_a_sentence() {
    let names: BTreeSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), CATALOGUE.len());
    for Metric { name, help, .. } in CATALOGUE {
        assert!(help.ends_with('.') && help.starts_with(|c: char| c.is_ascii_uppercase()), "{name}: {help}");
    }
}

#[test]
fn counters_are_told_of_from_the_beginning_where_their_series_are_known() {
    let series = |name: &str| {
        let metric = CATALOGUE.iter().find(|metric| metric.name == name).expect("it is there");
        series_of(metric).map(|series| series.len())
    };
    assert_eq!(series(DUPLICATE_BATCHES), Some(1));
    assert_eq!(series(BUFFER_DRAINED), Some(2));
    assert_eq!(series(BUFFER_DECISIONS), Some(12));
    assert_eq!(series(RUN_ATTEMPTS), None, "tasks are configured");
}

#[test]
fn labels_are_few_named_once_and_none_of_them_is_an_id() {
    for metric in CATALOGUE {
        let names: BTreeSet<_> = metric.labels.iter().map(|label| label.name).collect();
        assert_eq!(names.len(), metric.labels.len(), "{}", metric.name);
        assert!(names.len() <= 3, "{}", metric.name);
        for label in metric.labels {
            assert!(is_snake_case(label.name), "{}: {}", metric.name, label.name);
            let banned = ["le", "quantile", "instance", "job", "run", "id", "key", "url", "path_name", "error"];
            assert!(!banned.contains(&label.name), "{}: {}", metric.name, label.name);
            if let Words::Fixed(words) = label.words {
                assert!((2..=20).contains(&words().len()), "{}: {}", metric.name, label.name);
                assert!(words().iter().all(|word| label.allows(word)) && !label.allows("nonsense"));
            }
        }
        let is_info = metric.unit == Unit::Info;
        assert!(!is_info || metric.kind == Type::Gauge, "{}", metric.name);
    }
}

#[test]
fn what_anybody_can_name_is_capped_everywhere() {
    for (metric, label) in CATALOGUE.iter().flat_map(|metric| metric.labels.iter().map(move |label| (metric, label))) {
        let is_anybodys = ["queue", "task", "model"].contains(&label.name);
        assert_eq!(is_anybodys, matches!(label.words, Words::Capped(_)), "{}: {}", metric.name, label.name);
    }
}

#[test]
fn histograms_and_only_they_have_buckets_that_grow() {
    for metric in CATALOGUE {
        assert_eq!(metric.kind == Type::Histogram, !metric.buckets.is_empty(), "{}", metric.name);
        assert!(metric.buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
        assert!(metric.buckets.len() <= 14, "{}: each bucket is a series", metric.name);
    }
    assert_eq!(histograms().count(), CATALOGUE.iter().filter(|metric| metric.kind == Type::Histogram).count());
}

#[test]
fn a_gauge_of_the_cluster_forgets_what_is_not_there_any_more() {
    let recorder = Gauges::default();
    metrics::with_local_recorder(&recorder, || {
        let queue = |name: &str| vec![("queue", name.to_owned())];
        // One after the other, so that it is known which is the first.
        cluster::tell("a_gauge", [(queue("x"), 3.0)]);
        cluster::tell("a_gauge", [(queue("x"), 3.0), (queue("y"), 1.0)]);
        cluster::tell("a_gauge", [(queue("y"), 2.0)]);
        assert_eq!(recorder.values(), [0.0, 2.0]);
        cluster::leave(&["a_gauge"]);
        assert_eq!(recorder.values(), [0.0, 0.0]);
    });
}

/// Keeps gauges in the order in which they were first set.
#[derive(Default)]
struct Gauges(std::sync::Mutex<Vec<std::sync::Arc<std::sync::atomic::AtomicU64>>>);

impl Gauges {
    fn values(&self) -> Vec<f64> {
        let held = self.0.lock().expect("nobody panicked");
        held.iter().map(|bits| f64::from_bits(bits.load(std::sync::atomic::Ordering::Acquire))).collect()
    }
}

impl metrics::Recorder for Gauges {
    fn describe_counter(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_gauge(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn describe_histogram(&self, _: metrics::KeyName, _: Option<metrics::Unit>, _: metrics::SharedString) {}
    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::noop()
    }
    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        let value = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
        self.0.lock().expect("nobody panicked").push(value.clone());
        metrics::Gauge::from_arc(value)
    }
    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}
