//! What the promises to users are held against: the real binary, a simulated provider outside of it that
//! keeps the bill, real SQLite files and a real PostgreSQL.

pub mod provider;
pub mod case;
pub mod judge;
pub mod eventually;
pub mod http;
pub mod sql;
pub mod server;
pub mod load;
pub mod witness;
pub mod hook;
pub mod own_postgres;
#[path = "../../storage/tests/support/postgres.rs"]
pub mod postgres;

pub use case::{Case, Database, Ended, Protocol};
pub use eventually::eventually;
pub use hook::{HOOKED, Hook};
pub use http::{Answer, Client, Event};
pub use judge::Verdict;
pub use load::{Load, Mix, Tally};
pub use own_postgres::OwnPostgres;
pub use provider::Account;
pub use server::Server;
pub use witness::{WITNESSED, Witness};
