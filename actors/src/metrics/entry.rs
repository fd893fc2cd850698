//! What is said of a metric in the table.

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in the sources.
    pub constant: &'static str,
    pub name: &'static str,
    pub kind: Type,
    pub unit: Unit,
    pub labels: &'static [Label],
    pub help: &'static str,
    /// Upper bounds, of a histogram.
    pub buckets: &'static [f64],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

impl Type {
    pub const fn word(self) -> &'static str {
        match self {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        }
    }
}

/// What a value counts; the end of a metric's name says it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Count,
    Seconds,
    Bytes,
    Nanodollars,
    /// Always 1; what there is to know is in the labels.
    Info,
}

impl Unit {
    pub const fn word(self) -> &'static str {
        match self {
            Unit::Count => "count",
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            Unit::Nanodollars => "nanodollars",
            Unit::Info => "info",
        }
    }

    /// What the name of a metric in it ends with, before the `_total` of a counter.
    pub const fn suffix(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::Seconds => "_seconds",
            Unit::Bytes => "_bytes",
            Unit::Nanodollars => "_nanodollars",
            Unit::Info => "_info",
        }
    }
}

/// A label, and what it may say.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    pub name: &'static str,
    pub words: Words,
}

#[derive(Debug, Clone, Copy)]
pub enum Words {
    /// One of these.
    Fixed(fn() -> Vec<&'static str>),
    /// Whatever has been configured, or built in; this says what they are names of.
    Names(&'static str),
    /// The same, but anybody can make them: no more of them are told than [`super::NAMES_MAX`].
    Capped(&'static str),
}

impl Label {
    pub(super) const fn fixed(name: &'static str, words: fn() -> Vec<&'static str>) -> Label {
        Label { name, words: Words::Fixed(words) }
    }

    pub(super) const fn names(name: &'static str, of: &'static str) -> Label {
        Label { name, words: Words::Names(of) }
    }

    pub(super) const fn capped(name: &'static str, of: &'static str) -> Label {
        Label { name, words: Words::Capped(of) }
    }

    /// Whether it may say this.
    pub fn allows(&self, value: &str) -> bool {
        match self.words {
            Words::Fixed(words) => words().contains(&value),
            Words::Names(_) | Words::Capped(_) => !value.is_empty(),
        }
    }

    /// What it may say, for a reader.
    pub fn described(&self) -> String {
        match self.words {
            Words::Fixed(words) => words().join(", "),
            Words::Names(of) => of.to_owned(),
            Words::Capped(of) => format!("{of}; beyond {} of them: {}", super::NAMES_MAX, super::OTHER),
        }
    }
}
