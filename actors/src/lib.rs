//! Who decides, and when.
//!
//! Actors are thin: they wake up, ask the store, let a pure plan decide, and apply. Nothing that matters is
//! in their memory, so each may die at any instant and is rebuilt from its factory.

pub mod supervisor;
pub mod job_drive;
pub mod batch_poller;
pub mod drainer;
pub mod worker;
pub mod sweeper;
pub mod runs;
pub mod executor;
pub mod node_lease;
pub mod provider;
pub mod price;
pub mod parts;
pub mod config;
pub mod current;
pub mod metrics;
pub mod traces;
pub mod backoff;
mod system;

pub use parts::{LlmTask, MakeRequest, Parts};
pub use system::{Roles, Running, start, start_runs};
