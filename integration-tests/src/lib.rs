//! What the promises to users are held against: the real binary, a simulated provider outside of it that
//! keeps the bill, real SQLite files and a real PostgreSQL.

pub mod provider;
pub mod case;
pub mod machine;
pub mod judge;
pub mod eventually;
pub mod http;
pub mod sql;
pub mod server;
pub mod load;
pub mod witness;
pub mod hook;
pub mod own_postgres;
pub mod fault_proxy;
pub mod cluster;
pub mod history;
pub mod spans;
pub mod supplier;
pub mod prometheus;
pub mod otlp;
pub mod scrape;
#[path = "../../storage/tests/support/postgres.rs"]
pub mod postgres;

pub use case::{Case, Database, Ended, Protocol, binary};
pub use cluster::{Cluster, Node};
pub use eventually::eventually;
pub use fault_proxy::{FaultProxy, Wire};
pub use history::{History, Kind};
pub use hook::{HOOKED, Hook};
pub use http::{Answer, Client, Event};
pub use judge::Verdict;
pub use load::{Load, Mix, Tally};
pub use otlp::{Otlp, Recorded};
pub use own_postgres::OwnPostgres;
pub use prometheus::Prometheus;
pub use provider::{Account, OwnSim};
pub use scrape::{Sample, Scrape};
pub use server::Server;
pub use spans::{Span, most_at_once};
pub use supplier::Supplier;
pub use witness::{Effect, WITNESSED, Witness};
