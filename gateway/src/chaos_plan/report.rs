//! What became of those that were killed.

use crate::output::{Cell, Column, Room, Row};
use serde_json::{Value, json};

pub const COLUMNS: &[Column] = &[
    Column::new("SERVER", Room::Cut),
    Column::new("ACTOR", Room::Whole),
    Column::new("KILLS", Room::Whole),
    Column::new("RESTARTS", Room::Whole),
    Column::new("P99 S", Room::Whole),
    Column::new("UP", Room::Whole),
];

/// An actor as its server tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stands {
    pub up: bool,
    /// After kills on purpose.
    pub injected: u64,
    pub p99: Option<f64>,
}

impl Stands {
    pub fn of(actor: &Value) -> Stands {
        Stands {
            up: actor["up"].as_bool().unwrap_or(false),
            injected: actor["injected"].as_u64().unwrap_or(0),
            p99: actor["restart_p99_seconds"].as_f64(),
        }
    }
}

/// One that may be killed.
#[derive(Debug, Clone, PartialEq)]
pub struct Victim {
    pub server: String,
    pub actor: String,
    pub kills: u64,
    before: Stands,
    after: Stands,
}

impl Victim {
    pub fn new(server: &str, actor: String, stands: Stands) -> Victim {
        Victim { server: server.to_owned(), actor, kills: 0, before: stands, after: stands }
    }

    /// Restarts after kills since the plan began; one whose node began anew meanwhile has counted from there.
    fn restarts(&self) -> u64 {
        self.after.injected.checked_sub(self.before.injected).unwrap_or(self.after.injected)
    }

    /// Whether every death was followed by a life.
    pub fn is_back(&self) -> bool {
        self.after.up && self.restarts() >= self.kills
    }

    pub fn row(&self) -> Row {
        let p99 = self.after.p99.map(|span| format!("{span:.3}"));
        let cells = vec![
            Cell::text(&self.server),
            Cell::text(&self.actor),
            Cell::text(self.kills.to_string()),
            Cell::text(self.restarts().to_string()),
            Cell::maybe(p99),
            Cell::text(self.after.up.to_string()),
        ];
        let json = json!({
            "server": self.server, "actor": self.actor, "kills": self.kills, "restarts": self.restarts(),
            "restart_p99_seconds": self.after.p99, "up": self.after.up,
        });
        Row { cells, json }
    }
}

/// What a plan came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub victims: Vec<Victim>,
    /// Kills that found their victim dead already.
    pub down: u64,
    /// Kills that did not reach a server.
    pub unreachable: u64,
}

impl Report {
    pub fn kills(&self) -> u64 {
        self.victims.iter().map(|victim| victim.kills).sum()
    }

    pub fn see(&mut self, server: &str, actor: &str, stands: Stands) {
        let seen = |victim: &&mut Victim| victim.server == server && victim.actor == actor;
        if let Some(victim) = self.victims.iter_mut().find(seen) {
            victim.after = stands;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_killed_is_back_once_it_has_been_rebuilt_as_often() {
        let stands = |up, injected| Stands { up, injected, p99: None };
        let mut report = Report::default();
        report.victims.push(Victim::new("s", "drainer".to_owned(), stands(true, 4)));
        assert!(report.victims[0].is_back());
        report.victims[0].kills = 2;
        for (stands, back) in [(stands(true, 5), false), (stands(false, 6), false), (stands(true, 6), true)] {
            report.see("s", "drainer", stands);
            assert_eq!(report.victims[0].is_back(), back, "{stands:?}");
        }
        report.see("s", "drainer", stands(true, 2));
        assert_eq!(report.victims[0].restarts(), 2, "its node began anew");
        assert_eq!(report.kills(), 2);
    }
}
