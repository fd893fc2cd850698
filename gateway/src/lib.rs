//! How the world talks to Tidegate, and the binary.

/// Words for a person, on stderr. That nobody reads them any more is not an error.
macro_rules! say {
    ($($words:tt)*) => { $crate::output::note(format_args!($($words)*)) };
}

pub mod cli;
pub mod session;
pub mod signals;
pub mod providers;
pub mod repair;
pub mod actors_command;
pub mod chaos_plan;
pub mod process;
pub mod serve;
pub mod dev;
pub mod api;
pub mod openapi;
pub mod shell;
pub mod client;
pub mod runs;
pub mod workers;
pub mod buffer;
pub mod nodes;
pub mod keys;
pub mod db;
pub mod input;
pub mod sim;
pub mod ops;
pub mod catalogue;
pub mod http;
pub mod chaos;
pub mod output;
pub mod batches;
pub mod jobs;
pub mod sessions;
pub mod sweeps;
pub mod doctor;
pub mod sim_command;
pub mod exec_guard;
pub mod exit;
pub mod config;
pub mod config_command;
pub mod tasks;
pub mod hidden;
pub mod llm;
pub mod telemetry;
pub mod stdout;
