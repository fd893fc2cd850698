//! A program that leaves a line behind each time it is started, where no kill of a server can reach it, and that
//! can be told from every other process of the machine.

use crate::eventually::eventually;
use crate::history::now_ms;
use crate::server::Server;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The task's name.
pub const WITNESSED: &str = "witnessed";

/// One start of a run's program. Times are in milliseconds since 1970 UTC, to 10 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub run: String,
    pub started: i64,
    /// `None` when it was killed.
    pub ended: Option<i64>,
    /// An earlier program of the same run was still there.
    pub beside: bool,
}

/// When this machine was started, by its present time.
fn boot_ms() -> i64 {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("the time since boot");
    now_ms() - millis(uptime.split(' ').next().unwrap_or_default())
}

fn millis(seconds: &str) -> i64 {
    seconds.parse::<f64>().map_or(0, |seconds| (seconds * 1_000.0).round() as i64)
}

/// Where the lines are, and the mark of the processes.
pub struct Witness {
    dir: tempfile::TempDir,
    mark: String,
}

impl Witness {
    pub fn new() -> Witness {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        // A span so small that `sleep` can take it as one more argument.
        let mark = format!("0.0000000{:07}{number:03}", std::process::id());
        Witness { dir: tempfile::tempdir().expect("a folder for the lines"), mark }
    }

    /// A task that writes its line, takes this long, and writes another. In a line are the attempt, the process
    /// and the time since boot, which every clock of this machine can be compared with. A program that finds an
    /// earlier one of its run still there says so first.
    pub fn task(&self, seconds: f64) -> String {
        let file = format!("{}/$TIDEGATE_RUN_ID", self.dir.path().display());
        let script = format!(
            "f={file}; [ -f $f ] && while read w a p t; do [ $w = started ] && grep -qs $0 /proc/$p/cmdline && b=beside; done <$f; \
            read t r </proc/uptime; echo started $TIDEGATE_ATTEMPT $$ $t $b >>$f; sleep {seconds} $0; \
            read t r </proc/uptime; echo ended $TIDEGATE_ATTEMPT $$ $t >>$f"
        );
        format!(
            "[tasks.{WITNESSED}]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", '{script}', \"{}\"]\nretry_base_seconds = 0.01\nretry_cap_seconds = 0.05\n",
            self.mark
        )
    }

    /// How often the program of each run was started.
    pub fn starts(&self) -> HashMap<String, usize> {
        let mut starts = HashMap::new();
        for effect in self.effects() {
            *starts.entry(effect.run).or_default() += 1;
        }
        starts
    }

    /// Every start of a program, in the order of their runs and times.
    pub fn effects(&self) -> Vec<Effect> {
        let boot = boot_ms();
        let entries = std::fs::read_dir(self.dir.path()).expect("the folder of the lines").flatten();
        let mut effects = Vec::new();
        for entry in entries {
            let run = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
            let at = |line: &[&str]| boot + line.get(3).map_or(0, |seconds| millis(seconds));
            for line in lines.iter().filter(|line| line[0] == "started") {
                let is_end = |other: &&Vec<&str>| other[0] == "ended" && other.get(1..3) == line.get(1..3);
                effects.push(Effect {
                    run: run.clone(),
                    started: at(line),
                    ended: lines.iter().find(is_end).map(|line| at(line)),
                    beside: line.get(4) == Some(&"beside"),
                });
            }
        }
        effects.sort_by(|one, other| (&one.run, one.started).cmp(&(&other.run, other.started)));
        effects
    }

    /// The command lines of its processes that there are now.
    pub fn processes(&self) -> Vec<String> {
        let entries = std::fs::read_dir("/proc").expect("the processes").flatten();
        let line = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\0', " ");
        entries.map(|entry| line(entry.path().join("cmdline"))).filter(|line| line.contains(&self.mark)).collect()
    }

    /// No process is left, and no run was started more often than it was given out and lost, and once more;
    /// holds a server that has ended to it. Returns the starts, and the leases that were lost.
    #[track_caller]
    pub fn verify(&self, server: &Server) -> (usize, usize) {
        eventually("no process is left", || self.processes().is_empty());
        let lost = lost_leases(server);
        let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
        let starts = self.starts();
        for (run, count) in &starts {
            let leases = 1 + lost.get(run).copied().unwrap_or(0);
            assert!(*count <= leases, "{run} was started {count} times and given out {leases} times");
        }
        let done =
            server.rows(&format!("SELECT id FROM run_records WHERE task = '{WITNESSED}' AND state = 'succeeded'"));
        let never = done.iter().find(|row| !starts.contains_key(&text(&row[0])));
        assert!(never.is_none(), "{never:?} succeeded without ever being started");
        let lost_leases = starts.keys().filter_map(|run| lost.get(run)).sum();
        (starts.values().sum(), lost_leases)
    }
}

/// How often each run was taken from its carrier, or given back by it for a reason, by the store's history.
#[track_caller]
pub(crate) fn lost_leases(server: &Server) -> HashMap<String, usize> {
    let lost = server
        .rows("SELECT run_id, COUNT(*) FROM attempts WHERE state <> 'declined' OR code IS NOT NULL GROUP BY run_id");
    let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
    lost.iter().map(|row| (text(&row[0]), text(&row[1]).parse().unwrap_or(0))).collect()
}

impl Default for Witness {
    fn default() -> Witness {
        Witness::new()
    }
}
