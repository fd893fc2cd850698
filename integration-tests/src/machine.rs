//! What the machine that tests run on can do, for those that need more than every machine has.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether processes of ours may mount, in a namespace of their own.
pub fn may_mount() -> bool {
    Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|output| output.status.success())
}

/// Whether the kernel can hold programs to lists of files and of ports: all of Landlock that this takes is in Linux 6.7.
pub fn has_landlock() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    is_since(&release, (6, 7))
}

fn is_since(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for (release, since) in [("6.7.0-1-amd64\n", true), ("6.18.44-fc\n", true), ("7.0-rc1", true), ("6.1.0", false)]
        {
            assert_eq!(is_since(release, (6, 7)), since, "{release}");
        }
    }
}
