//! The processes that descend from this one, as /proc shows them.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::HashMap;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    is_zombie: bool,
}

/// Sends SIGKILL to every descendant and to its process group, which spares none that is being forked just
/// now. Our own group is left out; descendants in it are killed one by one.
pub(super) fn kill_descendants() {
    let us = i32::try_from(std::process::id()).unwrap_or(0);
    let all = processes();
    let own_group = all.iter().find(|process| process.pid == us).map_or(us, |process| process.group);
    for process in descendants(us, &all) {
        if process.group != own_group {
            let _ = Pid::from_raw(process.group).map(|group| kill_process_group(group, Signal::KILL));
        }
        let _ = Pid::from_raw(process.pid).map(|pid| kill_process(pid, Signal::KILL));
    }
}

/// Children of ours that have ended, except one.
pub(super) fn dead_children_except(spared: Pid) -> Vec<Pid> {
    let us = i32::try_from(std::process::id()).unwrap_or(0);
    let dead = processes().into_iter().filter(|process| process.is_zombie && process.parent == us);
    dead.filter_map(|process| Pid::from_raw(process.pid)).filter(|pid| *pid != spared).collect()
}

/// The name of a process, also of one that has ended and was not waited for yet.
pub(super) fn name(pid: Pid) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    // One that ends while we look is none.
    let stats = numbered.filter_map(|entry| std::fs::read(entry.path().join("stat")).ok());
    stats.filter_map(|stat| parse(&String::from_utf8_lossy(&stat))).collect()
}

/// Reads a line of /proc/PID/stat; the name in it may hold anything, parentheses and spaces too.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(' ')?;
    let mut fields = rest.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    let (parent, group) = (number()?, number()?);
    Some(Process { pid: pid.parse().ok()?, parent, group, is_zombie: matches!(state, "Z" | "X") })
}

/// Those below `root` that still live, also below ones that have ended.
fn descendants(root: i32, all: &[Process]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(pid) = open.pop() {
        // Taken out, so that even a torn view of the tree has no circles.
        for process in children.remove(&pid).unwrap_or_default() {
            open.push(process.pid);
            if !process.is_zombie {
                found.push(process);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, is_zombie: bool) -> Process {
        Process { pid, parent, group: pid, is_zombie }
    }

    #[test]
    fn stat_lines_are_read_whatever_the_name_is() {
        for (line, expected) in [
            ("7 (sh) S 5 6 6 0 -1", Some(Process { pid: 7, parent: 5, group: 6, is_zombie: false })),
            ("7 (a) Z 1 (b) Z 5 6 6", Some(Process { pid: 7, parent: 5, group: 6, is_zombie: true })),
            ("7 (\n) S 9 9) R 5 6 6", Some(Process { pid: 7, parent: 5, group: 6, is_zombie: false })),
            ("7 (sh) S", None),
            ("", None),
        ] {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }

    #[test]
    fn descendants_are_found_below_dead_ones_and_nobody_else_is() {
        let all = [
            process(2, 1, false),
            process(3, 2, true),
            process(4, 3, false),
            process(5, 1, false),
            process(6, 5, false),
            process(7, 7, false),
        ];
        let found: Vec<_> = descendants(2, &all).into_iter().map(|process| process.pid).collect();
        assert_eq!(found, [4]);
        assert_eq!(descendants(7, &all).len(), 1, "a circle ends");
    }
}
