//! What the node and the guard of one program tell each other, over a socket that is the guard's stdin.
//!
//! Node to guard: an `Order` as one line of JSON, the payload, then single bytes. The end of the stream means
//! that the node is gone. Guard to node: one `Report` as a line of JSON, just before the guard ends.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// SIGTERM now, SIGKILL after the grace.
pub const TERMINATE: u8 = b'T';
/// SIGKILL now.
pub const KILL: u8 = b'K';

/// The first argument of the binary that makes it a guard.
pub const SUBCOMMAND: &str = "exec-guard";

/// What a program may use. `None` leaves the node's own limit; no limit is ever raised. Core files are never
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    pub cpu_seconds: Option<u64>,
    /// Of each process, as address space.
    pub memory_bytes: Option<u64>,
    pub open_files: Option<u64>,
    /// Of the node's user in all, as the system counts them; the system does not limit root.
    pub processes: Option<u64>,
    /// Of each file that is written.
    pub file_bytes: Option<u64>,
    /// Whether a program of root keeps root's capabilities. Without them it is not above permissions, and
    /// reads neither the memory nor the environment of the node.
    pub keep_capabilities: bool,
}

/// What a program is kept from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// Covered by mounts.
    pub cover: Vec<PathBuf>,
    /// Left away: whatever its permissions let it.
    pub files: Option<Files>,
    /// TCP ports that it may connect to; none at all: no socket. Left away: any.
    pub connect: Option<Vec<u16>>,
}

/// Which files a program may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Files {
    /// All that are there when it starts, but these.
    AllBut { hidden: Vec<PathBuf> },
    /// Those to read, those to read and write, and its private folder; of none the hidden ones.
    Listed { read: Vec<PathBuf>, write: Vec<PathBuf>, hidden: Vec<PathBuf> },
}

/// One program to be run. It has no `Debug`: its environment may hold secrets of the operator.
#[derive(Serialize, Deserialize)]
pub struct Order {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Where it starts; in the scratch folder if not given.
    pub cwd: Option<PathBuf>,
    /// How the path of its folder begins: its HOME and TMPDIR, unless `env` has others; removed at the end.
    pub scratch: PathBuf,
    pub grace_millis: u64,
    pub limits: Limits,
    /// Left away: it is kept from nothing that its permissions let it do.
    pub walls: Option<Walls>,
    pub payload_bytes: u64,
    /// As in the assignment, in nanoseconds.
    pub start_by_nanos: u64,
}

impl Order {
    /// The folder that the guard of this number makes; the number keeps it apart from what a killed guard left.
    pub fn folder(&self, guard: u32) -> PathBuf {
        let mut folder = self.scratch.clone().into_os_string();
        folder.push(format!("-{guard}"));
        PathBuf::from(folder)
    }
}

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    /// It never ran, because it would have been begun when somebody else may have the run.
    TooLate,
    /// It never ran.
    NotStarted {
        why: String,
        /// For lack of something that may be there again later.
        shortage: bool,
    },
}

/// Whether a failure to start something may pass by itself.
pub fn is_shortage(error: &std::io::Error) -> bool {
    // EAGAIN, ENOMEM, ENFILE, EMFILE, ETXTBSY (somebody is writing the program), ENOSPC.
    matches!(error.raw_os_error(), Some(11 | 12 | 23 | 24 | 26 | 28))
}
