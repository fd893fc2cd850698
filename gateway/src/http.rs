//! What every HTTP endpoint stands on: problems, strict reading of what a client sends, keys, cursors, rates.
//!
//! Nothing here knows a run. A module either reads what came over the wire and says precisely what is wrong
//! with it, or decides from values that it is handed; routes put them together.

pub mod problem;
pub mod fields;
pub mod query;
pub mod body;
pub mod keys;
pub mod connections;
pub mod guard;
pub mod cursor;
pub mod rate;
pub mod room;
