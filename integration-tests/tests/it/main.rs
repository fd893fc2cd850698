//! Promises to users, held against the real binary, real databases, and a provider that keeps the bill.

mod first_run;
mod kill_matrix;
mod random_kills;
mod architecture;
mod actor_kill;
mod retries_and_ceilings;
mod owners;
mod duplicates;
mod secrets;
mod rows_000;
mod rows_001;
mod rows_003;
mod rows_004;
mod serve_kill;
mod serve_actors;
mod serve_caps;
mod serve_outage;
mod serve_buffered;
mod bad_input;
mod bad_files;
mod bad_results;
mod bad_config;
mod bad_calls;
mod executors;
mod bad_http;
mod cli_runs;
