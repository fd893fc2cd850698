//! What is refused about an `exec` task before any run gets to it.

use super::template::{BadTemplate, Template};
use super::{ExecTask, Sandbox};
use rustix::fs::{Access, access};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Names that are ours: a task can neither set nor pass them.
const OURS: &str = "TIDEGATE_";

/// Why a task cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum BadTask {
    #[error("program {program:?} is not an absolute path; no search path is looked at")]
    NotAbsolute { program: PathBuf },
    #[error("program {program:?}: {source}")]
    NoProgram { program: PathBuf, source: std::io::Error },
    #[error("program {program:?} is not a file")]
    NotAFile { program: PathBuf },
    #[error("program {program:?} is not executable")]
    NotExecutable { program: PathBuf },
    #[error("program {program:?} is neither a binary nor a script whose first line names its interpreter with #!")]
    NotRunnable { program: PathBuf },
    #[error("cwd {cwd:?} is not an absolute path of a folder")]
    BadCwd { cwd: PathBuf },
    #[error("argument {argument:?}: {why}")]
    BadArgument { argument: String, why: BadTemplate },
    #[error("{name:?} cannot be the name of a variable, or its value holds a NUL character")]
    BadVariable { name: String },
    #[error("variable {name}: names that begin with {OURS} are set by the node alone")]
    OurVariable { name: String },
    #[error("paths in tasks must be UTF-8; {path:?} is not")]
    NotUtf8 { path: PathBuf },
    #[error("{key}: {path:?} is not an absolute path of something that is there")]
    BadPath { key: &'static str, path: PathBuf },
    #[error("{key} belongs to a sandbox, and this task has none")]
    NoSandbox { key: &'static str },
    #[error("{key} needs Landlock (Linux 6.7 or later, with `landlock` in its list of security modules) and seccomp")]
    CannotList { key: &'static str },
    #[error("exec tasks need Linux")]
    NotHere,
}

/// Checks everything that can be known beforehand, and reads the arguments.
pub(super) fn check(task: &ExecTask) -> Result<Vec<Template>, BadTask> {
    if !cfg!(target_os = "linux") {
        return Err(BadTask::NotHere);
    }
    check_program(&task.program)?;
    if let Some(cwd) = task.cwd.as_ref().filter(|cwd| !cwd.is_absolute() || !cwd.is_dir()) {
        return Err(BadTask::BadCwd { cwd: cwd.clone() });
    }
    let listed = task.sandbox.read.iter().chain(&task.sandbox.write).flatten();
    let paths = task.cwd.iter().chain([&task.program]).chain(listed);
    if let Some(path) = paths.into_iter().find(|path| path.to_str().is_none()) {
        return Err(BadTask::NotUtf8 { path: path.clone() });
    }
    for name in task.env.keys().chain(&task.pass_env) {
        let nul_in_value = task.env.get(name).is_some_and(|value| value.contains('\0'));
        if name.is_empty() || name.contains(['=', '\0']) || nul_in_value {
            return Err(BadTask::BadVariable { name: name.clone() });
        }
        if name.starts_with(OURS) {
            return Err(BadTask::OurVariable { name: name.clone() });
        }
    }
    check_sandbox(&task.sandbox)?;
    let read = |argument: &String| {
        Template::parse(argument).map_err(|why| BadTask::BadArgument { argument: argument.clone(), why })
    };
    task.args.iter().map(read).collect()
}

/// What is listed must be there and can be enforced: nobody relies on walls that do not stand.
fn check_sandbox(sandbox: &Sandbox) -> Result<(), BadTask> {
    let Sandbox { enabled, read, write, connect } = sandbox;
    let lists = [("read_paths", read), ("write_paths", write)];
    let listed = lists.iter().filter(|(_, paths)| paths.is_some()).map(|(key, _)| *key);
    if let Some(key) = listed.chain(connect.as_ref().map(|_| "connect_ports")).next() {
        if !enabled {
            return Err(BadTask::NoSandbox { key });
        }
        if !can_list() {
            return Err(BadTask::CannotList { key });
        }
    }
    for (key, paths) in lists {
        if let Some(path) = paths.iter().flatten().find(|path| !path.is_absolute() || !path.exists()) {
            return Err(BadTask::BadPath { key, path: path.clone() });
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
use super::guard::walls::can_list;

#[cfg(not(target_os = "linux"))]
fn can_list() -> bool {
    false
}

fn check_program(program: &Path) -> Result<(), BadTask> {
    let program = program.to_path_buf();
    if !program.is_absolute() {
        return Err(BadTask::NotAbsolute { program });
    }
    match std::fs::metadata(&program) {
        Err(source) => Err(BadTask::NoProgram { program, source }),
        Ok(found) if !found.is_file() => Err(BadTask::NotAFile { program }),
        Ok(_) if access(&program, Access::EXEC_OK).is_err() => Err(BadTask::NotExecutable { program }),
        Ok(_) if !is_runnable(&program) => Err(BadTask::NotRunnable { program }),
        Ok(_) => Ok(()),
    }
}

/// Whether the kernel can run a file by itself. What it cannot, the C library would hand to a shell.
pub(in crate::executor::exec) fn is_runnable(program: &Path) -> bool {
    // A file that cannot be read cannot be read by a shell either.
    let Ok(mut file) = File::open(program) else { return true };
    let mut start = [0; 7];
    match file.read_exact(&mut start) {
        Ok(()) => start.starts_with(b"#!") || matches!(start, [0x7f, b'E', b'L', b'F', 1 | 2, 1 | 2, 1]),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn refused(change: impl FnOnce(&mut ExecTask)) -> String {
        let mut task = ExecTask { program: PathBuf::from("/bin/sh"), ..ExecTask::default() };
        change(&mut task);
        task.check().expect_err("it is refused").to_string()
    }

    #[test]
    fn s14_only_an_absolute_path_of_an_executable_file_is_a_program() {
        for (program, words) in [
            ("sh", "not an absolute path"),
            ("./sh", "not an absolute path"),
            ("", "not an absolute path"),
            ("/bin/no-such-program", "No such file"),
            ("/bin", "not a file"),
            ("/etc/passwd", "not executable"),
        ] {
            let error = refused(|task| task.program = PathBuf::from(program));
            assert!(error.contains(words), "{program}: {error}");
        }
        ExecTask { program: PathBuf::from("/bin/sh"), ..ExecTask::default() }.check().expect("a shell is a program");
    }

    #[test]
    fn s14_what_only_a_shell_could_run_is_no_program() {
        let folder = std::env::temp_dir().join(format!("tidegate-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("program");
        for (content, runnable) in [
            ("", false),
            ("#!", false),
            ("echo hello\n", false),
            ("\x7fELF, it says", false),
            ("#!/bin/sh\n", true),
            ("\x7fELF\x02\x01\x01", true),
        ] {
            std::fs::write(&path, content).expect("a file");
            assert_eq!(is_runnable(&path), runnable, "{content:?}");
        }
        std::fs::remove_dir_all(&folder).expect("it goes");
    }

    #[test]
    fn what_cannot_be_passed_to_a_program_is_refused_beforehand() {
        let variable = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert!(refused(|task| task.cwd = Some(PathBuf::from("tmp"))).contains("cwd"));
        assert!(refused(|task| task.cwd = Some(PathBuf::from("/no/such/folder"))).contains("cwd"));
        assert!(refused(|task| task.args = vec!["{run.nonsense}".to_owned()]).contains("{run.id}"));
        assert!(refused(|task| task.env = variable("A=B", "")).contains("A=B"));
        assert!(refused(|task| task.env = variable("A", "\0")).contains("NUL"));
        assert!(refused(|task| task.env = variable("", "")).contains("cannot be the name"));
        assert!(refused(|task| task.env = variable("TIDEGATE_STORE", "x")).contains("by the node alone"));
        assert!(refused(|task| task.pass_env = vec!["TIDEGATE_STORE".to_owned()]).contains("by the node alone"));
        assert!(refused(|task| task.sandbox.read = Some(vec![PathBuf::from("tmp")])).contains("read_paths"));
        assert!(refused(|task| task.sandbox.write = Some(vec![PathBuf::from("/no/such")])).contains("write_paths"));
        let open = Sandbox { enabled: false, connect: Some(vec![443]), ..Sandbox::default() };
        assert!(refused(|task| task.sandbox = open).contains("connect_ports"));
    }
}
