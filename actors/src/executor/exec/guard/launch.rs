//! The last step before the program: a child of the guard that takes limits and walls upon itself and becomes it.
//!
//! It is a process of its own, because limits that were the guard's too could keep the guard from its work.

use super::{NOT_STARTED, walls};
use crate::executor::exec::check::is_runnable;
use crate::executor::exec::order::{Limits, Order, Walls};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, clear_ambient_capability_set, remove_capability_from_bounding_set, set_name};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

/// The argument that says so, after the subcommand.
pub(super) const WORD: &str = "launch";

/// Our name as a process until we are the program; an error's number is put after the second. A program's own
/// name replaces it, so that the guard sees whether the program ever ran.
const STARTING: &str = "tg:starting";
const FAILED: &str = "tg:failed:";

/// What the step takes upon itself; of the order, what is no secret, since arguments can be read by all.
#[derive(Serialize, Deserialize)]
struct Bounds<'a> {
    limits: Limits,
    walls: Cow<'a, Option<Walls>>,
    scratch: Cow<'a, Path>,
}

/// From the guard: starts the step. HOME, TMPDIR and the rest of the environment are the program's own.
pub(super) fn spawn(order: &Order, environment: &BTreeMap<String, String>, cwd: &Path) -> std::io::Result<Child> {
    let (walls, scratch) = (Cow::Borrowed(&order.walls), Cow::Borrowed(order.scratch.as_path()));
    let bounds = serde_json::to_string(&Bounds { limits: order.limits, walls, scratch })?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tidegate").args([crate::executor::exec::order::SUBCOMMAND, WORD]);
    command.arg(std::process::id().to_string()).arg(bounds).arg(&order.program).args(&order.args);
    command.env_clear().envs(environment).current_dir(cwd).stdin(Stdio::piped());
    command.spawn()
}

/// What the guard finds out about a child that ended, by its name: whether it never became the program.
pub(super) fn failure(name: &str) -> Option<std::io::Error> {
    if name == STARTING {
        return Some(std::io::Error::other("its preparation was cut short"));
    }
    let number = name.strip_prefix(FAILED)?.parse().ok()?;
    Some(match number {
        0 => std::io::Error::other("its preparation failed"),
        number => std::io::Error::from_raw_os_error(number),
    })
}

/// As that child: never comes back if it works.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    let [guard, bounds, program, args @ ..] = arguments else { return super::refuse("it is started by a guard") };
    let error = become_program(guard, bounds, program, args);
    super::say(&format!("cannot start {}: {error}", program.display()));
    name_ourselves(&format!("{FAILED}{}", error.raw_os_error().unwrap_or(0)));
    ExitCode::from(NOT_STARTED)
}

fn become_program(guard: &OsStr, bounds: &OsStr, program: &OsStr, args: &[OsString]) -> std::io::Error {
    let bounds = bounds.to_str().and_then(|text| serde_json::from_str(text).ok());
    let Some(bounds) = bounds else { return std::io::Error::other("its limits cannot be read") };
    name_ourselves(STARTING);
    if !is_runnable(Path::new(program)) {
        return rustix::io::Errno::NOEXEC.into();
    }
    match prepare(guard, &bounds) {
        Ok(()) => Command::new(program).args(args).exec(),
        Err(error) => error,
    }
}

fn name_ourselves(name: &str) {
    // A name without NUL; if it does not hold, the end is taken for the program's own.
    let _ = CString::new(name).map(|name| set_name(&name));
}

fn prepare(guard: &OsStr, bounds: &Bounds<'_>) -> std::io::Result<()> {
    // Should the guard be killed, at least the program itself goes with it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let guard = guard.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    if guard.is_none() || getppid() != guard {
        return Err(std::io::Error::other("the guard is gone"));
    }
    rustix::process::setsid()?;
    walls::close_inherited()?;
    let Bounds { limits, walls, scratch } = bounds;
    if let Some(walls) = walls.as_ref() {
        walls::raise_privileged(walls, scratch)?;
    }
    if !limits.keep_capabilities {
        give_up_capabilities();
    }
    // Before the limits, which could keep us from it.
    if let Some(walls) = walls.as_ref() {
        walls::raise(walls, scratch)?;
    }
    limit(limits)
}

/// Empties what root's rights are made from at the next exec. Without root there is nothing to give up, and
/// every step is refused.
fn give_up_capabilities() {
    let _ = clear_ambient_capability_set();
    for number in 0..u64::BITS {
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number));
    }
}

fn limit(limits: &Limits) -> std::io::Result<()> {
    // One second between the signal that can be heeded and the one that cannot.
    let cpu = limits.cpu_seconds.map(|seconds| (seconds, seconds.saturating_add(1)));
    let same = |value: Option<u64>| value.map(|value| (value, value));
    for (resource, wanted) in [
        (Resource::Core, Some((0, 0))),
        (Resource::Cpu, cpu),
        (Resource::Nofile, same(limits.open_files)),
        (Resource::Nproc, same(limits.processes)),
        (Resource::Fsize, same(limits.file_bytes)),
        (Resource::As, same(limits.memory_bytes)),
    ] {
        let Some((soft, hard)) = wanted else { continue };
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit { current: Some(soft.min(most)), maximum: Some(hard.min(most)) };
        setrlimit(resource, limit)?;
    }
    Ok(())
}
