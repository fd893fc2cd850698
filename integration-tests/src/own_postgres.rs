//! A PostgreSQL cluster of one test's own, which it may crash, freeze and start again on the same port and data.

use crate::eventually::eventually;
use crate::server::spawn;
use sqlx::{Connection, PgConnection};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
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
        let root = tempfile::tempdir().expect("a folder for the cluster");
        if is_root() {
            let user = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let line = user.lines().find(|line| line.starts_with("postgres:")).expect("a user for PostgreSQL");
            let mut ids = line.split(':').skip(2).map(|id| id.parse::<u32>().expect("an id"));
            chown(root.path(), ids.next(), ids.next()).expect("the folder is handed over");
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let mut cluster = OwnPostgres { root, programs, port, server: None };
        let mut init = cluster.command("initdb");
        init.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(cluster.data());
        let made = init.stdout(Stdio::null()).status().expect("initdb starts");
        assert!(made.success(), "a cluster can be made");
        cluster.again();
        cluster
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

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
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
