//! What a program can reach: decided here, enforced by `guard::walls` in the process that becomes the program.
//!
//! Three walls, each of the kernel. A filter of system calls for every program (seccomp). The node's own files, which
//! are covered by mounts where the node may mount, and left out of an allow-list of files (Landlock) where it may not.
//! And for tasks that list what their programs need, an allow-list of just that, and of TCP ports.

use super::ExecTask;
use super::order::{Files, Walls};
use std::path::{Path, PathBuf};

/// What a task's programs can reach, besides what their permissions let them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Without it a program may trace, make namespaces, and see the node's own files.
    pub enabled: bool,
    /// What it reads and executes besides the system's own folders. With this or `write`, nothing else.
    pub read: Option<Vec<PathBuf>>,
    /// What it reads and writes besides its private folder. With this or `read`, nothing else.
    pub write: Option<Vec<PathBuf>>,
    /// TCP ports that it may connect to; with none it gets no socket at all. Left away: any.
    pub connect: Option<Vec<u16>>,
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox { enabled: true, read: None, write: None, connect: None }
    }
}

/// What every program reads and executes where files are listed: the system, as far as it is there.
const SYSTEM: [&str; 15] = [
    "/bin",
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/opt",
    "/proc",
    "/run/current-system",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sbin",
    "/sys/devices/system/cpu",
    "/usr",
];

/// Devices that hold nothing.
const DEVICES: [&str; 6] = ["/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];

impl Sandbox {
    /// Whether files are listed.
    pub(super) fn lists_files(&self) -> bool {
        self.read.is_some() || self.write.is_some()
    }

    /// What the program of a task is to be kept from, or nothing at all.
    pub(super) fn walls(&self, task: &ExecTask, hidden: &Hidden) -> Option<Walls> {
        if !self.enabled {
            return None;
        }
        let cover = if hidden.by == Means::Mounts { hidden.paths.clone() } else { Vec::new() };
        let files = if self.lists_files() {
            let system = SYSTEM.iter().map(PathBuf::from);
            let own = [Some(&task.program), task.cwd.as_ref()].into_iter().flatten().cloned();
            let read = system.chain(own).chain(self.read.iter().flatten().cloned()).collect();
            let write = DEVICES.iter().map(PathBuf::from).chain(self.write.iter().flatten().cloned()).collect();
            Some(Files::Listed { read, write, hidden: hidden.paths.clone() })
        } else if hidden.by == Means::Rules {
            Some(Files::AllBut { hidden: hidden.paths.clone() })
        } else {
            None
        };
        Some(Walls { cover, files, connect: self.connect.clone() })
    }
}

/// What keeps the node's own files from programs that list none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// Something empty is mounted over each, in a mount namespace of the program's own.
    Mounts,
    /// Everything else is allowed by name, as it is when the program starts. What is made later beside one of them or
    /// above it is not allowed, so that this serves only where programs make nothing there.
    Rules,
    /// Nothing can, and why.
    Nothing(String),
}

/// The node's own files: its store, its secrets, its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Absolute.
    pub paths: Vec<PathBuf>,
    pub by: Means,
}

impl Default for Hidden {
    fn default() -> Hidden {
        Hidden { paths: Vec::new(), by: Means::Mounts }
    }
}

impl Hidden {
    /// Why programs of tasks that list nothing can see these files, if they can.
    pub fn why_not(&self) -> Option<&str> {
        match &self.by {
            Means::Nothing(why) => Some(why),
            Means::Mounts | Means::Rules => None,
        }
    }

    /// Finds out what can keep these files from programs; `folders` are those that programs are to run in. Starts
    /// `binary`, which is ours, as a process that tries it.
    #[cfg(target_os = "linux")]
    pub fn from_programs(paths: &[PathBuf], folders: &[PathBuf], binary: &Path) -> Hidden {
        use super::guard::walls;
        let paths: Vec<PathBuf> = paths.iter().filter_map(|path| std::path::absolute(path).ok()).collect();
        let by = if paths.is_empty() || walls::can_mount(binary) {
            Means::Mounts
        } else if !walls::can_list() {
            Means::Nothing(
                "this process may not mount, and the kernel has no Landlock of Linux 6.7 or later".to_owned(),
            )
        } else {
            let settled = |paths: &[PathBuf]| paths.iter().filter_map(|path| settled(path)).collect::<Vec<_>>();
            by_rules(&settled(&paths), &settled(folders), walls::may_write)
        };
        Hidden { paths, by }
    }
}

/// A path without links; what is not there yet has none. Where it leads to may change while the node runs, as where an
/// orchestrator renews a file with a secret, so each program has it settled for itself.
#[cfg(target_os = "linux")]
pub(super) fn settled(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let (there, real) = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)))?;
    Some(real.join(path.strip_prefix(there).ok()?)).map(|path| path.components().collect())
}

/// Rules serve if programs make nothing in the folders that lead to a hidden file: they may not write there, or it is
/// the one folder that was made for the node alone, in one that is not its user's.
fn by_rules(hidden: &[PathBuf], folders: &[PathBuf], may_write: impl Fn(&Path) -> bool) -> Means {
    for path in hidden {
        for (distance, above) in path.ancestors().skip(1).enumerate() {
            let shared = may_write(above) && (distance > 0 || above.parent().is_none_or(&may_write));
            if shared || folders.iter().any(|folder| folder == above) {
                return Means::Nothing(format!(
                    "programs may make files in {}, above {}",
                    above.display(),
                    path.display()
                ));
            }
        }
    }
    Means::Rules
}

/// What of these is allowed if those are hidden: each path, or where something below it is hidden, its parts. Links
/// are left out: what they lead to is allowed, or not, where it is.
pub(super) fn parts_without(
    paths: impl IntoIterator<Item = PathBuf>,
    hidden: &[PathBuf],
    list: &impl Fn(&Path) -> Vec<PathBuf>,
) -> Vec<PathBuf> {
    let mut parts = Vec::new();
    let mut open: Vec<PathBuf> = paths.into_iter().collect();
    while let Some(path) = open.pop() {
        if hidden.iter().any(|hidden| path.starts_with(hidden)) {
            continue;
        }
        if hidden.iter().any(|hidden| hidden.starts_with(&path)) {
            open.extend(list(&path));
        } else {
            parts.push(path);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn s16_rules_hide_files_only_where_programs_make_none() {
        let system = paths(&["/var/lib/tidegate/tidegate.sqlite", "/etc/tidegate/key"]);
        let home = paths(&["/home/ann/.local/state/tidegate/tidegate.sqlite"]);
        let here = paths(&["/home/ann/project/tidegate.toml"]);
        let writable = |path: &Path| path.starts_with("/var/lib/tidegate") || path.starts_with("/home/ann");
        for (hidden, folders, serves) in [
            (&system, paths(&[]), true),
            (&system, paths(&["/var/lib/tidegate/work", "/srv"]), true),
            (&system, paths(&["/var/lib/tidegate"]), false),
            (&system, paths(&["/"]), false),
            (&home, paths(&[]), false),
            (&here, paths(&[]), false),
        ] {
            let means = by_rules(hidden, &folders, writable);
            assert_eq!(means == Means::Rules, serves, "{hidden:?} {folders:?}: {means:?}");
        }
        let everywhere = by_rules(&paths(&["/state.sqlite"]), &[], |_| true);
        assert!(matches!(everywhere, Means::Nothing(why) if why.contains("/state.sqlite")));
    }

    #[test]
    fn s16_what_is_hidden_is_in_no_part_that_is_allowed() {
        let list = |path: &Path| match path.to_str() {
            Some("/") => paths(&["/etc", "/var", "/usr"]),
            Some("/var") => paths(&["/var/lib", "/var/log"]),
            Some("/var/lib") => paths(&["/var/lib/tidegate", "/var/lib/x"]),
            Some("/var/lib/tidegate") => paths(&["/var/lib/tidegate/a.sqlite", "/var/lib/tidegate/a.sqlite-wal"]),
            other => panic!("{other:?} is listed"),
        };
        let hidden = paths(&["/var/lib/tidegate/a.sqlite", "/etc"]);
        let mut parts = parts_without(paths(&["/"]), &hidden, &list);
        parts.sort();
        assert_eq!(parts, paths(&["/usr", "/var/lib/tidegate/a.sqlite-wal", "/var/lib/x", "/var/log"]));
        assert_eq!(parts_without(paths(&["/etc/passwd"]), &hidden, &list), paths(&[]));
        assert_eq!(parts_without(paths(&["/etcetera"]), &hidden, &list), paths(&["/etcetera"]));
    }

    #[test]
    fn s15_a_task_that_lists_nothing_keeps_all_but_the_nodes_files() {
        let task = ExecTask { program: PathBuf::from("/srv/tool"), ..ExecTask::default() };
        let hidden = |by| Hidden { paths: paths(&["/state"]), by };
        let walls = |sandbox: Sandbox, by| sandbox.walls(&task, &hidden(by));
        let plain = Sandbox::default;
        let mounted = walls(plain(), Means::Mounts).expect("walls");
        assert_eq!((mounted.cover, mounted.files), (paths(&["/state"]), None));
        let ruled = walls(plain(), Means::Rules).expect("walls");
        assert_eq!((ruled.cover, ruled.files), (vec![], Some(Files::AllBut { hidden: paths(&["/state"]) })));
        let open = walls(plain(), Means::Nothing(String::new())).expect("the filter stays");
        assert_eq!((open.cover, open.files, open.connect), (vec![], None, None));
        assert_eq!(walls(Sandbox { enabled: false, ..plain() }, Means::Mounts), None);
        let listed = Sandbox { write: Some(paths(&["/srv/out"])), ..plain() };
        let Some(Files::Listed { read, write, hidden }) =
            walls(listed, Means::Nothing(String::new())).and_then(|walls| walls.files)
        else {
            panic!("files are listed")
        };
        assert!(read.contains(&task.program) && read.contains(&PathBuf::from("/usr")));
        assert!(write.contains(&PathBuf::from("/srv/out")) && write.contains(&PathBuf::from("/dev/null")));
        assert_eq!(hidden, paths(&["/state"]));
    }
}
