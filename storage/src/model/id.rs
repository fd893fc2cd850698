//! Identifiers: a prefix that says what it names, and a time-ordered ULID.

use super::time::Timestamp;
use rand::Rng;
use std::fmt;

/// What an id names; its prefix is part of the id everywhere, also in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Run,
    Batch,
    Job,
    Session,
    Node,
}

impl Kind {
    pub const fn prefix(self) -> &'static str {
        match self {
            Kind::Run => "run_",
            Kind::Batch => "bat_",
            Kind::Job => "job_",
            Kind::Session => "ses_",
            Kind::Node => "node_",
        }
    }
}

/// Makes ids from a time and randomness, ascending even within one millisecond.
#[derive(Debug)]
pub struct IdMint<R> {
    rng: R,
    last: u128,
}

impl<R: Rng> IdMint<R> {
    pub fn new(rng: R) -> IdMint<R> {
        IdMint { rng, last: 0 }
    }

    /// A bare ULID (26 characters of Crockford's base 32, lower case) that sorts after all before it.
    pub fn ulid(&mut self, now: Timestamp) -> String {
        let millis = u64::try_from(now.millis()).unwrap_or(0);
        let random = (u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64())) >> 48;
        let fresh = ulid::Ulid::from_parts(millis, random).0;
        // Steps of up to 2³² keep ids of one burst ordered and still unguessable one by one.
        let next = self.last.saturating_add(u128::from(self.rng.next_u32()) + 1);
        self.last = if fresh > self.last { fresh } else { next };
        ulid::Ulid(self.last).to_string().to_ascii_lowercase()
    }

    pub fn mint(&mut self, kind: Kind, now: Timestamp) -> String {
        format!("{}{}", kind.prefix(), self.ulid(now))
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn mint<R: Rng>(mint: &mut IdMint<R>, now: Timestamp) -> $name {
                $name(mint.mint($kind, now))
            }

            /// Takes an id as it stands in the database or in a request; it need not exist.
            pub fn from_text(text: impl Into<String>) -> $name {
                $name(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(/// Names one run.
    RunId, Kind::Run);
id_type!(/// Names one batch.
    BatchId, Kind::Batch);
id_type!(/// Names one job.
    JobId, Kind::Job);
id_type!(/// Names one session.
    SessionId, Kind::Session);
id_type!(/// Names one incarnation of one process.
    NodeId, Kind::Node);

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn ids_of_one_millisecond_ascend() {
        let mut mint = IdMint::new(rand::rngs::StdRng::seed_from_u64(7));
        let ids: Vec<_> = (0..1_000).map(|_| mint.mint(Kind::Run, Timestamp::from_millis(1))).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.len() == 30 && id.starts_with("run_")));
    }
}
