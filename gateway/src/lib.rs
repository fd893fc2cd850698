//! How the world talks to Tidegate, and the binary.

pub mod cli;
pub mod session;
pub mod providers;
pub mod process;
pub mod input;
pub mod sim;
pub mod ops;
pub mod chaos;
pub mod exit;
pub mod config;
pub mod telemetry;
pub mod stdout;
