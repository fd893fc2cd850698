//! The process between the node and one program (`tidegate exec-guard`): started with a socket to the node as
//! its stdin, it runs the program, ends the whole tree with it, and then ends as the program did.
//!
//! It lives as long as the tree and no longer than the node: the end of the socket, which the kernel brings
//! about even when the node is killed, ends everything at once. It needs no runtime, no configuration and no
//! store, and is subject to none of the program's limits.

#[cfg(target_os = "linux")]
mod launch;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(target_os = "linux")]
pub(in crate::executor::exec) mod walls;
#[cfg(target_os = "linux")]
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

/// Nothing could be run: what shells say for a command that is not there.
const NOT_STARTED: u8 = 127;

/// Runs as a guard, or as what the guard starts in order to become the program.
#[cfg(target_os = "linux")]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    match arguments.split_first() {
        None => watch::run(),
        Some((word, launch)) if word == launch::WORD => launch::run(launch),
        Some((word, [])) if word == walls::TRY_MOUNTS => walls::try_mounts(),
        Some(_) => refuse("it is started by a node, and takes no arguments"),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn run(_arguments: Vec<OsString>) -> ExitCode {
    refuse("exec tasks need Linux")
}

fn refuse(why: &str) -> ExitCode {
    say(why);
    ExitCode::from(NOT_STARTED)
}

/// One line on stderr, which is the program's; a closed one loses the words only.
fn say(words: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "tidegate exec-guard: {words}");
}
