//! Puts the walls of `exec::sandbox` around the process that is about to become a program. Each step either holds or
//! fails the start: a program never runs with less than was decided.

mod cover;
mod files;
mod calls;

use crate::executor::exec::order::{SUBCOMMAND, Walls};
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The argument that asks whether this process may mount, after the subcommand.
pub(super) const TRY_MOUNTS: &str = "try-mounts";

/// What needs privileges, for a process that is going to give them up. `scratch` is the program's private folder.
pub(super) fn raise_privileged(walls: &Walls, scratch: &Path) -> io::Result<()> {
    if walls.cover.is_empty() { Ok(()) } else { cover::cover(&walls.cover, scratch) }
}

/// The rest, which the process cannot take down again, nor can what it becomes.
pub(super) fn raise(walls: &Walls, scratch: &Path) -> io::Result<()> {
    files::restrict(walls, scratch)?;
    calls::filter(walls.connect.as_ref().is_some_and(Vec::is_empty))
}

/// Closes whatever whoever started the node left open for its children.
pub(super) fn close_inherited() -> io::Result<()> {
    const FIRST: i32 = 3;
    // All numbers before any is closed: the folder that is read is among them.
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST)
        .collect();
    for number in numbers {
        // What was closed meanwhile needs no closing.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Whether a process of ours may cover files for its programs, tried by one.
pub(in crate::executor::exec) fn can_mount(binary: &Path) -> bool {
    let mut command = Command::new(binary);
    command.args([SUBCOMMAND, TRY_MOUNTS]).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// As that one.
pub(super) fn try_mounts() -> ExitCode {
    if cover::try_it().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether files and ports can be listed on this machine: the kernel has what that takes, and nobody has turned it off.
pub(in crate::executor::exec) fn can_list() -> bool {
    files::can_list() && calls::can_filter()
}

/// Whether this process may make files in a folder; one that is not there yet is made as its parent allows.
pub(in crate::executor::exec) fn may_write(folder: &Path) -> bool {
    let there = folder.ancestors().find(|folder| folder.exists());
    there.is_some_and(|folder| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok())
}
