//! S9, S14, S15 and S16 as the configuration and the running server hold them; `executors` has the doors themselves.

use super::LATER;
use harness::machine::{has_landlock, may_mount};
use harness::{Database, Server, eventually};
use serde_json::json;
use std::net::TcpListener;

/// Hosts that are not public, in every spelling that some program reads.
const PRIVATE_HOSTS: [&str; 40] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[fe80::1]",
    "[ff02::1]",
    "[2002:7f00:1::]",
    "[2001:db8::1]",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "127.0.0.1.",
    "017700000001",
];

fn refused(config: &str) -> String {
    let server = Server::on(Database::Sqlite).config(config);
    let output = server.command(&["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]).output();
    let output = output.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{config} is not refused: {said}");
    assert!(said.contains("tasks.probe"), "{said}");
    said
}

#[test]
fn s9_a_webhook_to_an_address_that_is_not_public_is_refused_in_all_its_spellings() {
    for host in PRIVATE_HOSTS {
        let said = refused(&format!("[tasks.probe]\nkind = \"http\"\nurl = \"http://{host}/hook?key=canary\"\n"));
        assert!(!said.contains("canary"), "the URL is repeated: {said}");
    }
    for url in ["ftp://example.com/", "file:///etc/passwd", "http://user:canary@example.com/", "http:///x", "canary"] {
        let said = refused(&format!("[tasks.probe]\nkind = \"http\"\nurl = \"{url}\"\n"));
        assert!(!said.contains("canary"), "the URL is repeated: {said}");
    }
}

#[test]
fn s9_a_name_that_leads_to_this_machine_gets_no_request_from_the_server() {
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a socket");
    receiver.set_nonblocking(true).expect("it does not wait");
    let port = receiver.local_addr().expect("its address").port();
    let config =
        format!("[tasks.probe]\nkind = \"http\"\nurl = \"http://localhost:{port}/canary\"\nmax_attempts = 1\n");
    let mut server = Server::on(Database::Sqlite).config(&config).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "probe"}));
    eventually("the run has failed", || client.read(&run)["status"] == "failed");
    let run = client.read(&run);
    assert_eq!(run["outcome"]["code"], "refused_address", "{run}");
    assert!(!run.to_string().contains("canary"), "{run}");
    assert!(receiver.accept().is_err(), "somebody has come");
    server.stop();
}

#[test]
fn s14_only_an_absolute_program_of_the_configuration_is_run_and_no_request_names_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("a file");
    for program in ["sh", "./sh", "bin/sh", "../bin/sh", "/bin/no-such-program", "/bin", "/bin/sh -c true", ""] {
        refused(&format!("[tasks.probe]\nkind = \"exec\"\nprogram = \"{program}\"\n"));
    }
    refused(&format!("[tasks.probe]\nkind = \"exec\"\nprogram = \"{}\"\n", plain.display()));
    let config = "[tasks.probe]\nkind = \"exec\"\nprogram = \"/usr/bin/printf\"\nargs = [\"[%s]\", \"{payload.a}\"]\n";
    let mut server = Server::on(Database::Sqlite).config(config).start();
    let mut client = server.client();
    for name in ["program", "args", "env", "pass_env", "cwd", "shell", "command"] {
        let mut body = json!({"task": "probe", "payload": {"a": "x"}});
        body[name] = json!("/bin/sh");
        client.post("/runs", &body).is_problem(400, "unknown_field");
    }
    let touched = folder.path().join("touched");
    let touch = format!("touch {}", touched.display());
    for value in [format!("; {touch}"), format!("$({touch})"), format!("`{touch}`"), format!("a\n{touch}"), "-v".into()]
    {
        let run = client.run(&json!({"task": "probe", "payload": {"a": value}}));
        eventually("the run has ended", || client.read(&run)["status"] == "succeeded");
        assert_eq!(client.get(&format!("/runs/{run}/output")).is(200).text(), format!("[{value}]"));
    }
    assert!(!touched.exists(), "something was carried out");
    server.stop();
}

/// Tries what a program should not be able to do, and says which of it worked.
const PROBE: &str = r#"node=$1; store=$2; guard=$PPID
say() { echo "open: $1"; }
for pid in $node $guard; do for file in environ mem maps auxv fd; do
    head -c 1 /proc/$pid/$file >/dev/null 2>&1 && say "$pid/$file"; done
    readlink /proc/$pid/exe /proc/$pid/cwd /proc/$pid/fd/* | grep -q . && say "$pid: its files"
done
for file in $store $store-wal $store-shm $3; do
    [ -e $file ] || say "$file is not there"
    head -c 1 $file 2>/dev/null | grep -q . && say "$file is read"
    (: >> $file) 2>/dev/null && say "$file is written"
    rm -f $file 2>/dev/null && say "$file is removed"
done
mount -t tmpfs none . 2>/dev/null && say mount
umount /proc 2>/dev/null && say umount
umount $store 2>/dev/null && say uncovered
chroot / /bin/true 2>/dev/null && say chroot
mknod device c 1 3 2>/dev/null && say mknod
unshare --mount true 2>/dev/null && say unshare
unshare --user --map-root-user true 2>/dev/null && say "a user namespace"
nice -n -5 true 2>&1 | grep -q . || say nice
setpriv --reuid=12345 true 2>/dev/null && say setuid
env | grep -i canary && say environment
pwd | grep -q run_ || say "the folder is not its own"
[ -z "$(ls -A)" ] || say "the folder is not empty"
grep -q '^NoNewPrivs:.1' /proc/self/status || say privileges
grep -q '^CapEff:.0000000000000000' /proc/self/status || say capabilities
grep -q '^Seccomp:.2' /proc/self/status || say "system calls"
[ "$(ulimit -c)" = 0 ] || say "core dumps"
head -c 1 /etc/passwd >/dev/null || say "not even what is everybody's"
echo done"#;

fn probed(server: Server) {
    let canary = "canary-8c1e";
    let script = serde_json::Value::from(PROBE);
    let (settings, store) = (server.dir.path().join("tidegate.toml"), server.store.clone());
    let store = store.trim_start_matches("sqlite:");
    let config = format!(
        "[tasks.probe]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nmax_attempts = 1\n\
         args = [\"-c\", {script}, \"sh\", \"{{payload.node}}\", \"{store}\", \"{}\"]\n{LATER}",
        settings.display()
    );
    let mut server = server.config(&config).env("OPENAI_API_KEY", canary).env("SOME_SECRET", canary).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "probe", "payload": {"node": server.pid().to_string()}}));
    eventually("the probe has ended", || client.read(&run)["finished_at"].is_string());
    let said = client.get(&format!("/runs/{run}/output")).is(200).text();
    let errors = client.get(&format!("/runs/{run}/output?stream=stderr")).is(200).text();
    assert_eq!(said, "done\n", "{errors}{}", client.read(&run));
    server.stop();
}

/// Of root's, which hides its files by mounts, as of anybody's who may.
#[test]
fn s15_and_s16_a_probe_of_the_running_server_finds_its_doors_closed() {
    if !may_mount() {
        return println!("skipped: this user may not mount");
    }
    probed(Server::on(Database::Sqlite));
}

/// Which may not mount: what it hides, it leaves out of what is allowed.
#[test]
fn s15_and_s16_a_probe_of_a_service_with_a_user_of_its_own_finds_its_doors_closed() {
    let Some(server) = Server::as_service() else {
        return println!("skipped: only root can set up a service, on Linux 6.7");
    };
    probed(server);
}

/// Where a program may make files beside the store, nothing can be left out of what is allowed.
#[test]
fn s16_where_programs_can_see_the_nodes_files_server_and_doctor_say_so() {
    let Some(server) = Server::as_service() else {
        return println!("skipped: only root can set up a service, on Linux 6.7");
    };
    let deeper = server.store.replace("own/", "own/deeper/");
    let task = "[tasks.probe]\nkind = \"exec\"\nprogram = \"/bin/true\"\n";
    let mut server = server.with_store(&deeper);
    for (settings, words) in [
        ("", "programs may make files in"),
        ("sandbox = false\n", "tasks.probe has no sandbox"),
        ("read_paths = []\n", "they cannot read the store"),
    ] {
        server = server.config(&format!("{task}{settings}"));
        let doctor = server.command(&["doctor"]).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains(words), "{settings}: {said}");
        let before = server.lines().len();
        server.again();
        server.stop();
        let lines = server.lines().split_off(before);
        let warned = lines.iter().any(|line| line.contains("programs can read this node's own files"));
        assert_eq!(warned, !said.contains("cannot read"), "{settings}: {said} {lines:?}");
    }
}

/// Root is bound by no such limit, others are.
#[test]
fn s15_a_storm_of_processes_stops_at_its_limit() {
    let Some(server) = Server::as_service() else {
        return println!("skipped: only root can set up a service, on Linux 6.7");
    };
    let config = "[tasks.storm]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nprocesses = 150\nmax_attempts = 1\n\
                  args = [\"-c\", \"i=0; while [ $i -lt 300 ]; do sleep 4713 & i=$((i+1)); echo $i; done; echo free\"]\n";
    let mut server = server.config(config).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "storm"}));
    eventually("the storm has ended", || client.read(&run)["status"] == "failed");
    let said = client.get(&format!("/runs/{run}/output")).is(200).text();
    let started = said.lines().count();
    assert!(started < 150 && !said.contains("free"), "{started} were started");
    server.stop();
}

#[test]
fn s15_walls_that_cannot_stand_are_refused_before_anything_starts() {
    for (settings, words) in [
        ("read_paths = [\"relative\"]", if has_landlock() { "absolute path" } else { "Landlock" }),
        ("write_paths = [\"/no/such/folder\"]", if has_landlock() { "something that is there" } else { "Landlock" }),
        ("sandbox = false\nconnect_ports = []", "this task has none"),
    ] {
        let said = refused(&format!("[tasks.probe]\nkind = \"exec\"\nprogram = \"/bin/true\"\n{settings}\n"));
        assert!(said.contains(words), "{settings}: {said}");
    }
    let said = refused("[tasks.probe]\nkind = \"pull\"\nsandbox = true\n");
    assert!(said.contains("belong to tasks of the kind exec"), "{said}");
}

#[test]
fn s15_a_storm_of_processes_ends_with_its_run_and_the_server_goes_on() {
    let config = "[tasks.probe]\nkind = \"exec\"\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"i=0; while [ $i -lt 200 ]; do \
                  (sleep 4711 &); setsid sleep 4711 & i=$((i+1)); done; echo ready; wait\"]\n";
    let mut server = Server::on(Database::Sqlite).config(config).start();
    let mut client = server.client();
    let run = client.run(&json!({"task": "probe"}));
    eventually("the storm is there", || client.get(&format!("/runs/{run}/output")).text().contains("ready"));
    let other = client.run(&json!({"task": "noop"}));
    eventually("another run is carried out", || client.read(&other)["status"] == "succeeded");
    assert!(matches!(client.post(&format!("/runs/{run}/cancel"), &json!(null)).status, 200 | 202));
    eventually("the storm is cancelled", || client.read(&run)["status"] == "cancelled");
    eventually("nothing of it is left", || {
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        !lines.into_iter().any(|line| line == b"sleep\x004711\x00")
    });
    server.stop();
}
