//! The right to act until a time, and the number that fences whoever acted before.

use super::id::NodeId;
use super::time::Timestamp;
use std::fmt;

/// The fencing number of a lease. Every write carries it; an older one changes 0 rows (invariant 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(i64);

impl Epoch {
    pub const fn from_number(number: i64) -> Epoch {
        Epoch(number)
    }

    pub const fn number(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who holds something, until when, under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub holder: NodeId,
    pub epoch: Epoch,
    pub until: Timestamp,
}
