//! What the command line does with a server: the real binary on both sides.

mod server;
mod runs;
mod failures;
mod file;
mod workers;
mod keys;
mod docs;

use server::Server;
