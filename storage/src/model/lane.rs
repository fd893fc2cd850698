//! Where a run waits: a basin (whose it is and who may carry it) and a lane in it (its queue and key).

use std::fmt;

/// Divides the parts of basins and lanes; no name holds it.
const DIVIDER: char = '\u{1f}';
const PULL: &str = "~pull:";

/// An env, and who carries its runs: this system's own workers, or the pull workers of one task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Basin(String);

impl Basin {
    pub fn own(env: &str) -> Basin {
        Basin(env.to_owned())
    }

    pub fn pull(task: &str, env: &str) -> Basin {
        Basin(format!("{PULL}{task}{DIVIDER}{env}"))
    }

    /// A basin as it stands in the database.
    pub fn from_text(text: impl Into<String>) -> Basin {
        Basin(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn env(&self) -> &str {
        self.0.rsplit_once(DIVIDER).map_or(&self.0, |(_, env)| env)
    }

    pub fn org(&self) -> &str {
        let env = self.env();
        env.split_once('/').map_or(env, |(org, _)| org)
    }

    /// Whether this system's own workers carry its runs. A pull basin sorts after all envs.
    pub fn is_own(&self) -> bool {
        !self.0.contains(DIVIDER)
    }
}

/// A queue, and within it a concurrency key ("" for runs without one).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(String);

impl Lane {
    pub fn new(queue: &str, key: &str) -> Lane {
        Lane(format!("{queue}{DIVIDER}{key}"))
    }

    pub fn from_text(text: impl Into<String>) -> Lane {
        Lane(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn queue(&self) -> &str {
        self.0.split_once(DIVIDER).map_or(&self.0, |(queue, _)| queue)
    }

    pub fn key(&self) -> &str {
        self.0.split_once(DIVIDER).map_or("", |(_, key)| key)
    }

    /// All lanes of a queue lie from `first` (inclusive) to `last` (exclusive).
    pub fn range_of(queue: &str) -> (String, String) {
        (format!("{queue}{DIVIDER}"), format!("{queue} "))
    }
}

impl fmt::Display for Basin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.replace(DIVIDER, " "))
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.queue())?;
        if self.key().is_empty() { Ok(()) } else { write!(f, " [{}]", self.key()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_and_lanes_are_taken_apart_as_they_were_made() {
        let own = Basin::own("acme/prod");
        assert_eq!((own.org(), own.env(), own.is_own()), ("acme", "acme/prod", true));
        let pull = Basin::pull("train", "acme/prod");
        assert_eq!((pull.org(), pull.env(), pull.is_own()), ("acme", "acme/prod", false));
        let lane = Lane::new("mail", "user:7");
        assert_eq!((lane.queue(), lane.key()), ("mail", "user:7"));
    }

    #[test]
    fn the_range_of_a_queue_holds_its_lanes_and_no_other_queues() {
        let (first, last) = Lane::range_of("mail");
        let within = |lane: Lane| *lane.as_str() >= *first && *lane.as_str() < *last;
        assert!(
            within(Lane::new("mail", "")) && within(Lane::new("mail", "zz")) && within(Lane::new("mail", "\u{10ffff}"))
        );
        assert!(!within(Lane::new("mail2", "")) && !within(Lane::new("mai", "")) && !within(Lane::new("mail-x", "")));
    }
}
