//! Where a run waits: a basin (whose it is and who may carry it) and a lane in it (its queue and key).

use std::fmt;

/// Divides the parts of basins and lanes; no name holds it.
const DIVIDER: char = '\u{1f}';
/// The character after it, so that whatever holds the divider there lies below.
const AFTER_DIVIDER: char = ' ';
/// No env begins like this.
const PULL: &str = "~pull:";
/// The least text after all that begin so.
const AFTER_PULL: &str = "~pull;";

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

    /// Between which texts, both exclusive, lie the pull basins of a task; or this system's own, which lie on
    /// both sides of all pull basins.
    pub(crate) fn ranges(pull: Option<&str>) -> Vec<(String, String)> {
        match pull {
            Some(task) => vec![(format!("{PULL}{task}{DIVIDER}"), format!("{PULL}{task}{AFTER_DIVIDER}"))],
            None => vec![(String::new(), PULL.to_owned()), (AFTER_PULL.to_owned(), char::MAX.to_string())],
        }
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

    /// Whether this system's own workers carry its runs.
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
        (format!("{queue}{DIVIDER}"), format!("{queue}{AFTER_DIVIDER}"))
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
    fn the_ranges_of_a_task_hold_its_basins_and_those_of_nobody_all_others() {
        let within = |pull: Option<&str>, basin: &Basin| {
            let text = basin.as_str();
            Basin::ranges(pull).iter().filter(|(from, to)| text > from.as_str() && text < to.as_str()).count() == 1
        };
        for env in ["a/x", "Z/x", "0/x", "{/x", "~/x", "~pull/x", "~q/x", "ä/x", "\u{10fffe}/x", "🦀/🦀"] {
            let (own, pull) = (Basin::own(env), Basin::pull("train", env));
            assert!(within(None, &own) && !within(None, &pull), "{env}");
            assert!(within(Some("train"), &pull) && !within(Some("train"), &own), "{env}");
            assert!(!within(Some("tra"), &pull) && !within(Some("trainer"), &pull), "{env}");
        }
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
