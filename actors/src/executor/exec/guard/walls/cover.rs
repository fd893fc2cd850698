//! Covers files by mounts that nobody but the program sees: over a folder an empty one, over a file one that cannot be
//! opened. The program has no right to take them away.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const NOTHING: Option<&str> = None;
const BLIND: &str = "covered";

/// Covers what is there of these. What is not there yet cannot be covered, so the node makes its files before.
pub(super) fn cover(paths: &[PathBuf], scratch: &Path) -> io::Result<()> {
    leave_the_nodes_mounts()?;
    let (folders, files): (Vec<_>, Vec<_>) = paths.iter().filter(|path| path.exists()).partition(|path| path.is_dir());
    for folder in folders {
        mount_empty(folder, MsFlags::MS_RDONLY)?;
    }
    if files.is_empty() {
        return Ok(());
    }
    mount_empty(scratch, MsFlags::empty())?;
    let blind = scratch.join(BLIND);
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(&blind)?;
    for file in files {
        mount(Some(&blind), file, NOTHING, MsFlags::MS_BIND, NOTHING)?;
        mount(NOTHING, file, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NOTHING)?;
    }
    Ok(umount2(scratch, MntFlags::MNT_DETACH)?)
}

/// Whether this process may do all that, tried where it harms nobody: what it mounts ends with it.
pub(super) fn try_it() -> io::Result<()> {
    leave_the_nodes_mounts()?;
    mount_empty(Path::new("/"), MsFlags::MS_RDONLY)
}

/// From here on nothing that we mount is seen outside; what is mounted outside is seen by us.
fn leave_the_nodes_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING)?)
}

fn mount_empty(folder: &Path, more: MsFlags) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | more;
    Ok(mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some("size=4k,nr_inodes=4,mode=0700"))?)
}
