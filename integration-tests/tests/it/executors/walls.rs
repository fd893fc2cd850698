//! What a program is kept from: files that are hidden, files and ports that its task does not list, and system calls
//! that lead out.

use super::{exec, program, run_by, shell};
use actors::executor::Outcome;
use actors::executor::exec::{Exec, ExecTask, Hidden, Means, Sandbox};
use harness::case::binary;
use harness::machine::{has_landlock, may_mount};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

const NO_LANDLOCK: &str = "skipped: the kernel has no Landlock of Linux 6.7";

/// A folder with files of the node, and of others.
fn layout() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["keys", "work"] {
        fs::create_dir(dir.path().join(folder)).expect("a folder");
    }
    for file in ["state.sqlite", "keys/openai", "work/mine", "other"] {
        fs::write(dir.path().join(file), format!("in {file}\n")).expect("a file");
    }
    dir
}

fn hidden(dir: &Path) -> Hidden {
    let paths = ["state.sqlite", "keys", "not-yet"].map(|name| dir.join(name));
    Hidden::from_programs(&paths, &[], &binary())
}

/// What the script says in this folder.
fn said(dir: &Path, hidden: Hidden, sandbox: Sandbox, script: &str) -> String {
    let task = ExecTask { sandbox, cwd: Some(dir.to_owned()), ..shell(&format!("exec 2>&1; {script}; true")) };
    run_by(&exec(task).with_hidden(hidden), "{}").succeeded()
}

const LOOK: &str = "cat state.sqlite keys/openai other work/mine; echo x >> state.sqlite; rm -f keys/openai; \
                    mv work/mine work/yours; echo new > work/new; cat work/new work/yours";

fn keeps_hidden(dir: &Path, hidden: Hidden) {
    let said = said(dir, hidden, Sandbox::default(), LOOK);
    assert!(!said.contains("in state.sqlite") && !said.contains("in keys/openai"), "{said}");
    for seen in ["in other", "in work/mine", "new"] {
        assert!(said.lines().any(|line| line == seen), "{seen}: {said}");
    }
    for file in ["state.sqlite", "keys/openai"] {
        let now = fs::read_to_string(dir.join(file)).expect("it is still there");
        assert_eq!(now, format!("in {file}\n"));
    }
}

#[test]
fn s16_hidden_files_are_covered_where_the_node_may_mount() {
    let dir = layout();
    if !may_mount() {
        return println!("skipped: this user may not mount");
    }
    let hidden = hidden(dir.path());
    assert_eq!(hidden.by, Means::Mounts);
    keeps_hidden(dir.path(), hidden);
    // Seen by nobody else, and gone with the program.
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc");
    assert!(!mounts.contains(&*dir.path().to_string_lossy()), "{mounts}");
}

#[test]
fn s16_hidden_files_are_left_out_of_what_is_allowed_where_it_may_not() {
    if !has_landlock() {
        return println!("{NO_LANDLOCK}");
    }
    let dir = layout();
    let hidden = Hidden { by: Means::Rules, ..hidden(dir.path()) };
    keeps_hidden(dir.path(), hidden);
}

/// As an orchestrator does that renews a secret: the folder that a link leads to is another one from then on.
#[test]
fn s16_a_file_that_is_renewed_stays_hidden() {
    if !has_landlock() {
        return println!("{NO_LANDLOCK}");
    }
    let dir = layout();
    let (link, old) = (dir.path().join("secrets"), dir.path().join("keys"));
    std::os::unix::fs::symlink(&old, &link).expect("a link");
    let found = Hidden::from_programs(&[link.join("openai")], &[], &binary());
    for by in [Means::Rules, Means::Mounts].into_iter().take(1 + usize::from(may_mount())) {
        let renewed = tempfile::tempdir_in(dir.path()).expect("a folder");
        fs::write(renewed.path().join("openai"), "renewed\n").expect("a file");
        fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(renewed.path(), &link)).expect("a link");
        let hidden = Hidden { by, ..found.clone() };
        let said = said(dir.path(), hidden, Sandbox::default(), "cat secrets/openai other");
        assert!(!said.contains("renewed") && said.contains("in other"), "{said}");
    }
}

#[test]
fn s16_without_a_sandbox_all_of_it_is_open() {
    let dir = layout();
    let open = Sandbox { enabled: false, ..Sandbox::default() };
    let said = said(dir.path(), hidden(dir.path()), open, LOOK);
    assert!(said.contains("in state.sqlite") && said.contains("in keys/openai"), "{said}");
}

#[test]
fn s15_files_that_are_not_listed_are_neither_read_nor_written() {
    if !has_landlock() {
        return println!("{NO_LANDLOCK}");
    }
    let dir = layout();
    let other = tempfile::tempdir().expect("a folder");
    fs::write(other.path().join("read"), "listed\n").expect("a file");
    let sandbox = Sandbox {
        read: Some(vec![other.path().join("read")]),
        write: Some(vec![dir.path().join("work")]),
        ..Sandbox::default()
    };
    let unlisted = tempfile::tempdir().expect("a folder");
    fs::write(unlisted.path().join("file"), "unlisted\n").expect("a file");
    let script = format!(
        "cat {listed}; cat work/mine; echo new > work/new; cat work/new; echo own > $HOME/own; cat $HOME/own; \
         echo x > /dev/null && echo null; cat {unlisted}; ls {folder}; echo x >> {listed} && echo written; \
         echo x > other && echo written; touch /var/tmp/x && echo written; mv work/new {folder} && echo moved; \
         ln work/mine {folder}/link && echo linked",
        listed = other.path().join("read").display(),
        unlisted = unlisted.path().join("file").display(),
        folder = unlisted.path().display(),
    );
    let said = said(dir.path(), Hidden::default(), sandbox, &script);
    for seen in ["listed", "in work/mine", "new", "own", "null"] {
        assert!(said.lines().any(|line| line == seen), "{seen}: {said}");
    }
    for unseen in ["unlisted", "file", "written", "moved", "linked"] {
        assert!(!said.lines().any(|line| line == unseen), "{unseen}: {said}");
    }
    assert_eq!(fs::read_dir(unlisted.path()).expect("it is there").count(), 1);
}

#[test]
fn s15_what_is_hidden_stays_hidden_in_a_folder_that_is_listed() {
    if !has_landlock() {
        return println!("{NO_LANDLOCK}");
    }
    let dir = layout();
    let hidden = Hidden { by: Means::Nothing("as on a laptop".to_owned()), ..hidden(dir.path()) };
    let sandbox = Sandbox { write: Some(vec![dir.path().to_owned()]), ..Sandbox::default() };
    let said = said(dir.path(), hidden, sandbox, LOOK);
    assert!(said.contains("in other") && !said.contains("in state.sqlite") && !said.contains("in keys"), "{said}");
}

/// Connects to both ports and says which answered.
fn connects(connect: Option<Vec<u16>>, ports: [u16; 2]) -> String {
    let [first, second] = ports;
    let script = format!(
        "use IO::Socket::INET; for my $port ({first}, {second}) {{ \
         print IO::Socket::INET->new(PeerAddr => \"127.0.0.1:$port\") ? \"open \" : \"closed \"; }}"
    );
    let task =
        ExecTask { sandbox: Sandbox { connect, ..Sandbox::default() }, ..program("/usr/bin/perl", &["-e", &script]) };
    run_by(&exec(task), "{}").succeeded()
}

#[test]
fn s15_only_listed_ports_are_connected_to() {
    if !has_landlock() {
        return println!("{NO_LANDLOCK}");
    }
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a socket"));
    let ports = [0, 1].map(|at: usize| listeners[at].local_addr().expect("an address").port());
    assert_eq!(connects(None, ports), "open open ");
    assert_eq!(connects(Some(vec![ports[0]]), ports), "open closed ");
    assert_eq!(connects(Some(vec![ports[1]]), ports), "closed open ");
    assert_eq!(connects(Some(vec![]), ports), "closed closed ");
}

/// Tries calls by their numbers on this architecture, and says what came of each.
#[cfg(target_arch = "x86_64")]
fn tried(sandbox: Sandbox) -> String {
    // getpid, for one that works; ptrace(PTRACE_TRACEME), unshare(CLONE_NEWUSER), clone3, keyctl(0, -3, 1), and
    // ptrace by its number for programs of the third kind.
    let script = "for ([39], [101, 0, 0, 0, 0], [272, 0x10000000], [435, 0, 0], [250, 0, -3, 1], [0x40000209, 0]) { \
                  my $r = syscall(@$_[0], @$_[1], @$_[2], @$_[3], @$_[4]); \
                  print $r >= 0 ? \"works \" : $!{EPERM} ? \"refused \" : $!{ENOSYS} ? \"none \" : \"other \"; }";
    let script = format!("use Errno; {script}");
    let task = ExecTask { sandbox, ..program("/usr/bin/perl", &["-e", &script]) };
    run_by(&exec(task), "{}").succeeded()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn s15_system_calls_that_lead_out_are_refused() {
    let said = tried(Sandbox::default());
    assert_eq!(said, "works refused refused none refused refused ");
    let open = tried(Sandbox { enabled: false, ..Sandbox::default() });
    assert!(open.starts_with("works works ") && !open.contains("refused refused none"), "{open}");
}

#[test]
fn s15_a_program_whose_walls_do_not_stand_is_not_started() {
    // Its own folder is covered with the first, so that the second cannot be.
    let paths = vec![std::env::temp_dir(), PathBuf::from("/etc/passwd")];
    let ended = run_by(&exec(shell("echo ran")).with_hidden(Hidden { paths, by: Means::Mounts }), "{}");
    assert!(!ended.stdout().contains("ran"), "it ran");
    let Outcome::Failed { code, reason, .. } = ended.outcome else { panic!("{:?}", ended.outcome) };
    assert_eq!(code, "spawn_failed", "{reason}");
}

#[test]
fn s14_a_task_whose_lists_cannot_be_kept_is_no_task() {
    for sandbox in [
        Sandbox { read: Some(vec![PathBuf::from("relative")]), ..Sandbox::default() },
        Sandbox { enabled: false, read: Some(Vec::new()), ..Sandbox::default() },
    ] {
        assert!(Exec::new(ExecTask { sandbox, ..shell("true") }).is_err());
    }
}
