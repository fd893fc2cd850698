//! Landlock: allow-lists of files and of TCP ports, which the kernel holds a process and all its descendants to.

use crate::executor::exec::order::{Files, Walls};
use crate::executor::exec::sandbox::{parts_without, settled};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use std::io;
use std::path::{Path, PathBuf};

/// Since Linux 6.2: the first that also guards against truncating.
const FILES: ABI = ABI::V3;

pub(super) fn can_list() -> bool {
    ruleset(AccessFs::from_all(FILES), true).and_then(Ruleset::create).is_ok()
}

/// Takes the lists upon this process, if there are any. `scratch` is always the program's own.
pub(super) fn restrict(walls: &Walls, scratch: &Path) -> io::Result<()> {
    let ports = walls.connect.as_deref();
    let rules = match (&walls.files, ports) {
        (None, None) => return Ok(()),
        (None, Some(_)) => ruleset(BitFlags::empty(), true).and_then(Ruleset::create),
        (Some(Files::AllBut { hidden }), _) => all_but(&where_they_are(hidden), ports.is_some()),
        (Some(Files::Listed { read, write, hidden }), _) => {
            let own = write.iter().map(PathBuf::as_path).chain([scratch]);
            listed(read.iter().map(PathBuf::as_path), own, &where_they_are(hidden), ports.is_some())
        }
    };
    let ports = ports.unwrap_or_default().iter().map(|port| Ok(NetPort::new(*port, AccessNet::ConnectTcp)));
    let enforced = rules.and_then(|rules| rules.add_rules(ports)).and_then(RulesetCreated::restrict_self);
    enforced.map(drop).map_err(|error: RulesetError| io::Error::other(format!("Landlock: {error}")))
}

/// That folders are listed cannot be forbidden for one below which something is allowed, so it is not forbidden at all:
/// of what is hidden only the names are seen.
fn all_but(hidden: &[PathBuf], ports: bool) -> Result<RulesetCreated, RulesetError> {
    let rights = AccessFs::from_all(FILES) & !AccessFs::ReadDir;
    let parts = parts_without([PathBuf::from("/")], hidden, &entries);
    ruleset(rights, ports)?.create()?.add_rules(path_beneath_rules(parts, rights))
}

/// Programs that list what they need send no signals to others either, where the kernel can hold them to that.
fn listed<'a>(
    read: impl Iterator<Item = &'a Path>,
    write: impl Iterator<Item = &'a Path>,
    hidden: &[PathBuf],
    ports: bool,
) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(FILES);
    let parts = |paths: &mut dyn Iterator<Item = &'a Path>| {
        parts_without(paths.filter_map(|path| path.canonicalize().ok()), hidden, &entries)
    };
    let (read, write) = (parts(&mut { read }), parts(&mut { write }));
    ruleset(all, ports)?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?
        .add_rules(path_beneath_rules(read, AccessFs::from_read(FILES)))?
        .add_rules(path_beneath_rules(write, all))
}

fn ruleset(rights: BitFlags<AccessFs>, ports: bool) -> Result<Ruleset, RulesetError> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let rules = if rights.is_empty() { rules } else { rules.handle_access(rights)? };
    if ports { rules.handle_access(AccessNet::ConnectTcp) } else { Ok(rules) }
}

fn where_they_are(hidden: &[PathBuf]) -> Vec<PathBuf> {
    hidden.iter().filter_map(|path| settled(path)).collect()
}

/// What is in a folder, links left out; of one that cannot be read nothing is allowed.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_link = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
    entries.filter(|entry| !is_link(entry)).map(|entry| entry.path()).collect()
}
