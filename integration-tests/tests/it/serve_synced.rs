//! What is acknowledged is committed, and it is on the disk, not only with the operating system: it outlives the
//! process and the machine (invariant 40, F9). No test can pull a plug, but one can see whether the file was synced
//! before the answer came.

use harness::sql::Standing;
use harness::{Database, Server, eventually};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Adds a byte to the file that `SYNCED` names for each sync of a SQLite log that has succeeded. While there is a file
/// with `.broken` behind that name, those of the log fail.
const COUNTER: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int counted(long call, int file) {
    char link[64], path[4096], broken[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    int is_log = length > 4 && memcmp(path + length - 4, "-wal", 4) == 0;
    snprintf(broken, sizeof broken, "%s.broken", getenv("SYNCED"));
    if (is_log && access(broken, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    if (syscall(call, file) != 0) return -1;
    if (is_log) {
        int count = open(getenv("SYNCED"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (write(count, "x", 1) != 1) abort();
        close(count);
    }
    return 0;
}

int fsync(int file) { return counted(SYS_fsync, file); }
int fdatasync(int file) { return counted(SYS_fdatasync, file); }
"#;

/// A library that counts syncs, for `LD_PRELOAD`. There is a C compiler wherever Rust links.
fn counter(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("counter.c"), dir.join("counter.so"));
    std::fs::write(&source, COUNTER).expect("the source is written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let built = built.expect("cc starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

/// A node whose syncs are counted in a file, and that file.
fn counted(dir: &Path) -> (Server, PathBuf) {
    let count = dir.join("synced");
    let server = Server::on(Database::Sqlite).env("LD_PRELOAD", counter(dir).display()).env("SYNCED", count.display());
    (server, count)
}

#[test]
fn serve_nothing_is_acknowledged_any_more_once_a_sync_has_failed_on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, count) = counted(dir.path());
    let mut server = server.expecting("cannot be synced").start();
    let mut client = server.client();
    let run = json!({"task": "noop", "delay_seconds": 3_600});
    let kept = client.run(&run);
    let broken = count.with_extension("broken");
    std::fs::write(&broken, "").expect("a file");
    let refused = client.post("/runs", &run).is(503);
    assert!(refused.text().contains("is not known"), "{}", refused.text());
    // The kernel counts what it could not write as written: that the next sync succeeds says nothing.
    std::fs::remove_file(&broken).expect("it is removed");
    client.post("/runs", &run).is(503);
    server.kill9();
    server.again();
    let mut client = server.client();
    client.get(&format!("/runs/{kept}")).is(200);
    client.run(&run);
}

#[test]
fn serve_a_run_is_synced_to_disk_before_it_is_acknowledged_on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let (server, count) = counted(dir.path());
    let synced = || std::fs::metadata(&count).map_or(0, |file| file.len());
    let server = server.start();
    assert!(synced() > 0, "the counter sees what is synced when a store is made");
    let mut client = server.client();
    // Nobody carries them out meanwhile, so that hardly anything else is written.
    let run = json!({"task": "noop", "delay_seconds": 3_600});
    for nth in 0..10 {
        let mut keyed = run.clone();
        keyed["idempotency_key"] = json!(format!("key-{nth}"));
        for run in [&run, &keyed] {
            let before = synced();
            client.run(run);
            assert!(synced() > before, "a run was acknowledged that was not on disk: {run}");
        }
    }
}

#[test]
fn serve_a_run_is_not_acknowledged_before_its_commit_on_postgres() {
    let mut server = Server::start_on(Database::Postgres);
    let mut other = server.client();
    for with_key in [false, true] {
        let mut run = json!({"task": "noop", "delay_seconds": 3_600});
        if with_key {
            run["idempotency_key"] = json!("key");
        }
        // It lets others read, so that the store is there, and nobody write.
        let standing = Standing::begin(&server.store, "LOCK TABLE run_records IN EXCLUSIVE MODE");
        let mut client = server.client();
        let asking = std::thread::spawn(move || client.send("POST", "/runs", Some(&run.to_string())));
        eventually("its commit waits", || {
            let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'run_records'::regclass";
            server.number(waiting) > 0
        });
        // Whatever had been answered by now has been answered before this.
        other.get("/runs?limit=1").is(200);
        server.kill9();
        let answer = asking.join().expect("it does not panic");
        assert!(answer.is_err(), "a run was acknowledged whose commit waited: {answer:?}");
        drop(standing);
        server.again();
    }
}
