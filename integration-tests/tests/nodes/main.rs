//! Several nodes on one PostgreSQL: real processes, each behind a proxy, killed, frozen and cut off, and judged by
//! who is outside of them: callers, a provider, a receiver of webhooks, and programs that leave lines behind.

mod caps;
mod batches;
mod zombies;
mod chaos;
mod files;
mod aftermath;
mod rolling;
mod frozen;
mod outage;
mod failover;
mod long_reader;
mod throughput;
mod jobs;
mod killed_actors;
mod scraped;

use harness::{Case, Database, Ended, Server, Supplier, eventually};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Of all nodes here.
const LEASE_MS: i64 = 1_000;

fn is_soak() -> bool {
    std::env::var_os("TIDEGATE_SOAK").is_some()
}

/// As given by `TIDEGATE_SEED`, or a fresh one.
fn seed() -> u64 {
    std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

/// Ends those who look at it when a test ends, however it does.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A server that is soon replaced when nothing is heard of it any more.
fn short_lived(server: Server) -> Server {
    // That connections still come in when it stops is no matter to anybody.
    let server = server.expecting("actix_server::accept: No workers");
    server.set("nodes.lease_seconds", LEASE_MS as f64 / 1_000.0).set("supervisor.sweep_seconds", 0.2)
}

/// A file of requests that no other file has, to be bought at a supplier by commands on a store.
fn file_for(supplier: &Supplier, store: &str, lines: usize) -> Case {
    let mut case = Case::new(Database::Sqlite, supplier.protocol, lines);
    case.store = store.to_owned();
    case.account = supplier.account.clone();
    case.args.extend(["--provider", supplier.name].map(str::to_owned));
    case.env.push(("TIDEGATE_NODES__LEASE_SECONDS".to_owned(), (LEASE_MS as f64 / 1_000.0).to_string()));
    std::fs::write(case.dir.path().join("tidegate.toml"), supplier.config()).expect("the configuration is written");
    case
}

/// A command under way; it ends with this value.
struct Underway(Option<Child>);

impl Underway {
    fn start(mut command: Command) -> Underway {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        Underway(Some(child))
    }

    fn pid(&self) -> u32 {
        self.0.as_ref().expect("it is under way").id()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        // Until it is waited for it is there, even if it has ended.
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
    }

    /// Waits until it has stopped itself.
    fn freezes(&self) {
        let path = format!("/proc/{}/stat", self.pid());
        let is_frozen = || {
            let stat = std::fs::read_to_string(&path).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        eventually("the command has stopped itself", is_frozen);
    }

    /// Waits for its end.
    fn ends(mut self) -> Ended {
        self.0.take().expect("it is under way").wait_with_output().expect("its output").into()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = (child.kill(), child.wait());
        }
    }
}
