//! What is true, and which changes are legal.
//!
//! `model` holds the entities with their tables of legal moves; it knows std, serde and ids only. `store`
//! holds the SQL, one text for SQLite and PostgreSQL, every write guarded by the state and epoch that it
//! expects. Nothing here decides *when* something happens; that is the work of the actors.

pub mod model;
pub mod store;
pub mod error;
pub mod boot_clock;
pub mod failpoint;

pub use error::{Class, StoreError};
pub use store::Store;
