//! Few runs do not wait for many.

/// By which of a node's doors runs come in and are ended. On PostgreSQL neither waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Few runs at once.
    Few,
    /// Many.
    Many,
}

impl Door {
    /// Runs at once that are few still.
    pub const FEW: usize = 16;

    /// The door for so many at once.
    pub fn of(runs: usize) -> Door {
        if runs <= Door::FEW { Door::Few } else { Door::Many }
    }
}
