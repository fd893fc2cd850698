//! Seccomp: system calls that no program of a task needs and that lead out of it, or into others, are refused.

#[allow(clippy::wildcard_imports, reason = "constants of the system, under its own names")]
use libc::*;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;
use std::io;

/// Refused with EPERM, as without the privilege. `io_uring` does many calls where no filter sees them.
const REFUSED: &[c_long] = &[
    // Into other processes.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_pidfd_getfd,
    // Other views of the system: mounts and namespaces.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_unshare,
    SYS_setns,
    SYS_open_by_handle_at,
    // Into the kernel, and the whole machine.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_acct,
    SYS_quotactl,
    SYS_swapon,
    SYS_swapoff,
    SYS_reboot,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_sethostname,
    SYS_setdomainname,
];

/// Flags of `clone` that make namespaces.
const NAMESPACES: [c_int; 7] =
    [CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP];

/// On x86-64 a call with this bit is the same one for programs of a third kind, besides those of 64 and 32 bits. Hardly
/// any kernel runs them, but where one does, a filter by number alone could be gone around.
#[cfg(target_arch = "x86_64")]
const OF_THE_THIRD_KIND: c_long = 0x4000_0000;

/// Calls that have other numbers there: ptrace, kexec_load, process_vm_readv and process_vm_writev.
#[cfg(target_arch = "x86_64")]
const RENUMBERED: [c_long; 4] = [521, 528, 539, 540];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn can_filter() -> bool {
    architecture().is_ok()
}

/// Takes the filter upon this process; there is none for an architecture whose calls it does not know.
pub(super) fn filter(without_sockets: bool) -> io::Result<()> {
    if !can_filter() {
        return Ok(());
    }
    // The arguments of `clone3` are out of a filter's sight. Where it is not there, `clone` is used.
    let in_its_place = || compiled(Rules::from([(SYS_clone3, Vec::new())]), ENOSYS);
    let others = || compiled(refused(without_sockets)?, EPERM);
    let cannot = |error: &dyn std::fmt::Display| io::Error::other(format!("seccomp: {error}"));
    for program in [in_its_place(), others()] {
        let program = program.map_err(|error| cannot(&error))?;
        apply_filter(&program).map_err(|error| cannot(&error))?;
    }
    Ok(())
}

fn refused(without_sockets: bool) -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    if without_sockets {
        rules.insert(SYS_socket, Vec::new());
    }
    let makes = |flag: c_int| {
        let flag = u64::try_from(flag).unwrap_or_default();
        let set = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag)?;
        SeccompRule::new(vec![set])
    };
    rules.insert(SYS_clone, NAMESPACES.into_iter().map(makes).collect::<Result<_, _>>()?);
    #[cfg(target_arch = "x86_64")]
    {
        let alike: Vec<_> = rules.iter().map(|(call, rules)| (call | OF_THE_THIRD_KIND, rules.clone())).collect();
        rules.extend(alike);
        rules.extend(RENUMBERED.map(|call| (call | OF_THE_THIRD_KIND, Vec::new())));
    }
    Ok(rules)
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

fn compiled(rules: Rules, error: c_int) -> Result<BpfProgram, BackendError> {
    let error = SeccompAction::Errno(u32::try_from(error).unwrap_or_default());
    SeccompFilter::new(rules, SeccompAction::Allow, error, architecture()?)?.try_into()
}
