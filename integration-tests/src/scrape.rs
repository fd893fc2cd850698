//! What a server tells on `/metrics`, read line by line and held against the table of metrics.

use crate::server::Server;
use actors::metrics::{CATALOGUE, Metric, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// One line of a scrape.
#[derive(Debug, Clone)]
pub struct Sample {
    pub series: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A scrape: the type of each name, and the lines of it.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    pub text: String,
    types: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Scrape {
    pub fn of(server: &Server) -> Scrape {
        let text = server.ops("/metrics").is(200).text();
        let mut scrape = Scrape { text, ..Scrape::default() };
        for line in scrape.text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                scrape.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                scrape.samples.push(sample(line));
            }
        }
        scrape
    }

    /// The name that a line belongs to, of which a histogram has three.
    fn family<'a>(&self, sample: &'a Sample) -> &'a str {
        let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|end| sample.series.strip_suffix(end));
        let of_histogram = |name: &&str| self.types.get(*name).is_some_and(|kind| kind == "histogram");
        parts.into_iter().find(of_histogram).unwrap_or(&sample.series)
    }

    /// Of all series of a name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is_it = |sample: &&Sample| {
            let has = |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|said| said == value);
            sample.series == name && labels.iter().all(has)
        };
        self.samples.iter().filter(is_it).map(|sample| sample.value).sum()
    }

    /// Names, types, labels and what they say are those of the table, and no type is a summary. Returns the names.
    #[track_caller]
    pub fn is_as_the_table_says(&self) -> BTreeSet<&'static str> {
        let table: BTreeMap<&str, &Metric> = CATALOGUE.iter().map(|metric| (metric.name, metric)).collect();
        for (name, kind) in &self.types {
            let metric = table.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
            assert_eq!(kind, metric.kind.word(), "{name}: a summary is no histogram");
        }
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            let metric = table[self.family(sample)];
            let bucket = metric.kind == Type::Histogram && sample.series.ends_with("_bucket");
            let said: BTreeSet<&str> =
                sample.labels.keys().map(String::as_str).filter(|name| !bucket || *name != "le").collect();
            let should: BTreeSet<&str> = metric.labels.iter().map(|label| label.name).collect();
            assert_eq!(said, should, "{sample:?}");
            for label in metric.labels {
                assert!(label.allows(&sample.labels[label.name]), "{}: {sample:?}", label.described());
            }
            seen.insert(metric.name);
        }
        seen
    }

    /// Prometheus' own linter has nothing to say.
    #[track_caller]
    pub fn pleases_promtool(&self) {
        let mut command = Command::new("promtool");
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("promtool of Debian's package prometheus");
        child.stdin.take().expect("its stdin").write_all(self.text.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}

/// Nothing of the table is missing among what was seen, but for what could not be there.
#[track_caller]
pub fn nothing_is_missing(seen: &BTreeSet<&str>, not_here: &[&str]) {
    let expected = CATALOGUE.iter().map(|metric| metric.name).filter(|name| !not_here.contains(name));
    let missing: Vec<&str> = expected.filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "nothing is told of {missing:?}");
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    for label in rest.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
        let (name, said) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        labels.insert(name.to_owned(), said.trim_end_matches('"').to_owned());
    }
    Sample { series: name.to_owned(), labels, value }
}
