//! A PostgreSQL cluster of one test's own, which it may crash, freeze and start again on the same port and data.

use crate::eventually::eventually;
use crate::machine::is_root;
use crate::server::spawn;
use crate::sql::rows;
use sqlx::{Connection, PgConnection};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// See the module's first lines. Its processes end with it, and with this process.
pub struct OwnPostgres {
    root: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl OwnPostgres {
    pub fn start() -> OwnPostgres {
        let installed = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's programs").flatten();
        let programs = installed.map(|entry| entry.path().join("bin")).max().expect("a version of PostgreSQL");
        let mut cluster = OwnPostgres { root: folder(), programs, port: free_port(), server: None };
        let mut init = cluster.command("initdb");
        init.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(cluster.data());
        let made = init.stdout(Stdio::null()).status().expect("initdb starts");
        assert!(made.success(), "a cluster can be made");
        cluster.again();
        cluster
    }

    /// A standby that streams from it, and has all that it had; it answers reads.
    #[track_caller]
    pub fn standby(&self) -> OwnPostgres {
        self.base_backup(&["--write-recovery-conf"])
    }

    /// A base backup that is started as it is: nothing in it says that it is one.
    #[track_caller]
    pub fn copied(&self) -> OwnPostgres {
        self.base_backup(&[])
    }

    #[track_caller]
    fn base_backup(&self, args: &[&str]) -> OwnPostgres {
        let mut backup =
            OwnPostgres { root: folder(), programs: self.programs.clone(), port: free_port(), server: None };
        let mut copy = backup.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "--no-sync"]);
        copy.args(["--checkpoint=fast", "-D"]).arg(backup.data()).args(args);
        assert!(copy.status().expect("pg_basebackup starts").success(), "a base backup can be made");
        backup.again();
        backup
    }

    /// As a standby: hears nothing more of its primary.
    pub fn is_left_behind(&self) {
        let settings = self.data().join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&settings).expect("its settings");
        text.push_str("primary_conninfo = ''\n");
        std::fs::write(&settings, text).expect("they are written");
        signal("HUP", &[self.server.as_ref().expect("it is running").id()]);
        eventually("the standby receives nothing more", || {
            rows(&self.url(), "SELECT 1 FROM pg_stat_wal_receiver").is_empty()
        });
    }

    /// As a standby: becomes a primary, on a timeline of its own.
    pub fn promote(&self) {
        let promoted = rows(&self.url(), "SELECT CAST(pg_promote() AS TEXT)");
        assert_eq!(promoted[0][0].as_deref(), Some("true"));
    }

    /// One of its programs, without root's rights, ended by SIGQUIT when this process ends.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        command.args(["--pdeathsig", "QUIT", "--"]).arg(self.programs.join(program));
        command.current_dir(self.root.path()).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Starts it on its port and data, and returns once it takes connections.
    #[track_caller]
    pub fn again(&mut self) {
        assert!(self.server.is_none(), "it is running already");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.root.path().display()));
        self.server = Some(spawn(command));
        eventually("PostgreSQL takes connections", || self.answers());
    }

    fn answers(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = self.url();
        runtime.block_on(async move {
            match PgConnection::connect(&url).await {
                Ok(connection) => connection.close().await.is_ok(),
                Err(_) => false,
            }
        })
    }

    /// Ends it as a power cut of its processes would: `pg_ctl stop -m immediate`.
    pub fn crash(&mut self) {
        if let Some(mut server) = self.server.take() {
            signal("QUIT", &[server.id()]);
            let _ = server.wait();
        }
    }

    /// Stops all its processes in the middle of whatever they do; connections stay open and hear nothing.
    pub fn freeze(&self) {
        let postmaster = self.server.as_ref().expect("it is running").id();
        // The postmaster first: it starts no more of them.
        signal("STOP", &[postmaster]);
        signal("STOP", &children(postmaster));
    }

    pub fn thaw(&self) {
        let postmaster = self.server.as_ref().expect("it is running").id();
        signal("CONT", &children(postmaster));
        signal("CONT", &[postmaster]);
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.thaw();
            self.crash();
        }
    }
}

/// For a cluster, which does not run as root.
fn folder() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a folder for the cluster");
    if is_root() {
        let user = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = user.lines().find(|line| line.starts_with("postgres:")).expect("a user for PostgreSQL");
        let mut ids = line.split(':').skip(2).map(|id| id.parse::<u32>().expect("an id"));
        chown(root.path(), ids.next(), ids.next()).expect("the folder is handed over");
    }
    root
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn signal(name: &str, pids: &[u32]) {
    if !pids.is_empty() {
        let pids = pids.iter().map(u32::to_string);
        // Some may have ended meanwhile.
        let _ = Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
    }
}

fn children(parent: u32) -> Vec<u32> {
    let of_parent = |stat: &str| {
        let fields = stat.rsplit_once(')')?.1;
        (fields.split_whitespace().nth(1)?.parse() == Ok(parent)).then_some(())
    };
    let entries = std::fs::read_dir("/proc").expect("the processes").flatten();
    let pid = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let is_child =
        |path: &PathBuf| std::fs::read_to_string(path.join("stat")).is_ok_and(|stat| of_parent(&stat).is_some());
    entries.map(|entry| entry.path()).filter(is_child).filter_map(|path| pid(&path)).collect()
}
