//! What the promises to users are held against: the real binary, a simulated provider outside of it that
//! keeps the bill, real SQLite files and a real PostgreSQL.

pub mod provider;
pub mod case;
pub mod judge;
pub mod eventually;
#[path = "../../storage/tests/support/postgres.rs"]
pub mod postgres;

pub use case::{Case, Database, Ended, Protocol};
pub use eventually::eventually;
pub use judge::Verdict;
pub use provider::Account;
