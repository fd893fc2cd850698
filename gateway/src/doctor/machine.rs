//! What the machine gives a node: its ports, open files, and room on the disk.

use super::Check;
use crate::config::{Config, ServerConfig};
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// A server takes up to ten thousand connections, each an open file.
const ENOUGH_FILES: u64 = 4_096;
/// Below this even the store's own connections and one program at a time may not find any.
const TOO_FEW_FILES: u64 = 256;
const ENOUGH_ROOM: u64 = 1 << 30;
const TOO_LITTLE_ROOM: u64 = 64 << 20;

/// The ports that `serve` would take. `in_use` when a process that lives has the store: then it has them rightly.
pub fn ports(config: &Config, in_use: bool) -> Vec<Check> {
    let usual = ServerConfig::default();
    let of = |key, addr: SocketAddr, usual| port(key, addr, addr == usual, in_use, TcpListener::bind(addr).err());
    let checks = [
        of("server.listen", config.server.listen, usual.listen),
        of("server.ops_listen", config.server.ops_listen, usual.ops_listen),
    ];
    checks.into_iter().flatten().collect()
}

fn port(key: &str, addr: SocketAddr, is_usual: bool, in_use: bool, refused: Option<std::io::Error>) -> Option<Check> {
    const NAME: &str = "ports";
    if addr.port() == 0 {
        return None;
    }
    let Some(error) = refused else { return Some(Check::ok(NAME, format!("{key} {addr} is free"))) };
    let fix = format!("stop what has it, or set another {key}");
    Some(match error.kind() {
        ErrorKind::AddrInUse if in_use => Check::ok(NAME, format!("{key} {addr} is taken, as by the server that runs")),
        // Whoever has set nothing may not mean to serve at all.
        ErrorKind::AddrInUse if is_usual => Check::warn(NAME, format!("{key} {addr} is taken"), fix),
        _ => Check::fail(NAME, format!("{key} {addr} cannot be listened on: {error}"), fix),
    })
}

/// How many files this process may open, as whatever is started the same way.
pub fn open_files() -> Check {
    files(getrlimit(Resource::Nofile).current)
}

fn files(limit: Option<u64>) -> Check {
    const NAME: &str = "open files";
    let fix = "raise it: LimitNOFILE= of the service, or `ulimit -n 65536` before the start";
    match limit {
        None => Check::ok(NAME, "no limit"),
        Some(limit) if limit < TOO_FEW_FILES => Check::fail(NAME, format!("at most {limit}, which is too few"), fix),
        Some(limit) if limit < ENOUGH_FILES => {
            Check::warn(NAME, format!("at most {limit}: a server has a connection for each caller"), fix)
        }
        Some(limit) => Check::ok(NAME, format!("at most {limit}")),
    }
}

/// The room beside a SQLite store; the first folder of its path that there is.
pub fn disk(url: &str) -> Option<Check> {
    let path = Path::new(url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path))?);
    let here = |path: &Path| if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path.to_owned() };
    let folder = path.ancestors().skip(1).map(here).find(|folder| folder.is_dir())?;
    let found = statvfs(&folder).ok()?;
    Some(room(&folder, found.f_bavail.saturating_mul(found.f_frsize)))
}

fn room(folder: &Path, bytes: u64) -> Check {
    const NAME: &str = "disk";
    let what = format!("{} MiB are free in {}", bytes >> 20, folder.display());
    let fix = "make room: a store without any refuses what comes in (507)";
    match bytes {
        ..TOO_LITTLE_ROOM => Check::fail(NAME, what, fix),
        TOO_LITTLE_ROOM..ENOUGH_ROOM => Check::warn(NAME, what, fix),
        ENOUGH_ROOM.. => Check::ok(NAME, what),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_port_that_is_taken_matters_by_who_has_it_and_who_asked_for_it() {
        let addr: SocketAddr = "127.0.0.1:7070".parse().expect("an address");
        let taken = || Some(std::io::Error::from(ErrorKind::AddrInUse));
        let verdict = |is_usual, in_use, refused| port("k", addr, is_usual, in_use, refused).map(|check| check.verdict);
        assert_eq!(verdict(false, false, None), Some(Verdict::Ok));
        assert_eq!(verdict(false, true, taken()), Some(Verdict::Ok));
        assert_eq!(verdict(true, false, taken()), Some(Verdict::Warn));
        assert_eq!(verdict(false, false, taken()), Some(Verdict::Fail));
        let denied = Some(std::io::Error::from(ErrorKind::PermissionDenied));
        assert_eq!(verdict(true, true, denied), Some(Verdict::Fail));
        assert_eq!(port("k", "127.0.0.1:0".parse().expect("an address"), false, false, None), None);
    }

    #[test]
    fn limits_and_room_have_their_bounds() {
        for (limit, verdict) in [
            (None, Verdict::Ok),
            (Some(65_536), Verdict::Ok),
            (Some(4_096), Verdict::Ok),
            (Some(1_024), Verdict::Warn),
            (Some(255), Verdict::Fail),
        ] {
            assert_eq!(files(limit).verdict, verdict, "{limit:?}");
        }
        for (mebibytes, verdict) in
            [(63, Verdict::Fail), (64, Verdict::Warn), (1_023, Verdict::Warn), (1_024, Verdict::Ok)]
        {
            assert_eq!(room(Path::new("/"), mebibytes << 20).verdict, verdict, "{mebibytes}");
        }
        assert_eq!(disk("postgres://h/d"), None);
        assert!(disk("sqlite:/nowhere/at/all.sqlite").is_some(), "the first folder that there is");
    }
}
