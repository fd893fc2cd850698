//! One throw-away PostgreSQL cluster per test process, with a database of its own for every test.
//!
//! A small shell keeps the cluster: it makes the folder, starts the server, and holds a pipe whose other end
//! is this process. The pipe closes when this process ends, however it ends; then the shell stops the server
//! at once and removes the folder. Nothing here has to run at exit.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a loaded machine may take to make a cluster.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);
/// A port that was free can be taken before the server binds it; then another one is tried.
const PORTS_TRIED: u32 = 10;

/// Arguments: folder of the programs, port, `on` or `off` for fsync, then the words that drop root's rights.
/// Its first line of output is the cluster's folder; more follows only if the server ends by itself.
const KEEPER: &str = r#"
exec 3<&0 </dev/null
trap '' HUP INT TERM
bin=$1 port=$2 fsync=$3
shift 3
root=$(mktemp -d "${TMPDIR:-/tmp}/tidegate-pg.XXXXXX") || exit 1
trap 'cd /; rm -rf "$root"' EXIT
[ $# -eq 0 ] || chown postgres "$root"
cd "$root" || exit 1
echo "$root"
if "$@" "$bin/initdb" -D "$root/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$root/log" 2>&1; then
    "$@" "$bin/postgres" -D "$root/data" -p "$port" \
        -c listen_addresses=127.0.0.1 -c "unix_socket_directories=$root" -c max_connections=200 \
        -c "fsync=$fsync" -c "full_page_writes=$fsync" >>"$root/log" 2>&1 3<&- &
    server=$!
    # A server that is only just starting does not hear the first one.
    { cat <&3; while kill -QUIT $server; do sleep 0.1; done; } >/dev/null 2>&1 &
    watcher=$!
    wait $server
    kill -KILL $watcher
fi
tail -n 20 "$root/log" 2>/dev/null
"#;

/// A running cluster. It ends with this process.
pub struct Cluster {
    port: u16,
    databases: AtomicU32,
    /// Its stdin is the pipe that keeps the cluster alive; it must not be dropped.
    _keeper: Child,
}

/// The cluster of this test process, started by whoever asks first.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(start)
}

impl Cluster {
    /// Creates an empty database and returns its URL.
    pub fn fresh_database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name}");
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port);
        block_on(async move {
            let mut admin = PgConnection::connect(&url).await.expect("the cluster takes connections");
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await.expect("a database can be created");
            admin.close().await.expect("the connection closes");
        });
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

fn start() -> Cluster {
    let programs = programs().unwrap_or_else(|| {
        panic!("these tests need PostgreSQL's server programs: install the Debian package `postgresql`")
    });
    let mut last_words = String::new();
    for _ in 0..PORTS_TRIED {
        match start_on(&programs, free_port()) {
            Ok(cluster) => return cluster,
            Err(log) => last_words = log,
        }
    }
    panic!("PostgreSQL does not start; the end of its log:\n{last_words}")
}

/// Starts a cluster on a port. The error is the end of the log of a server that ended by itself.
fn start_on(programs: &Path, port: u16) -> Result<Cluster, String> {
    let fsync = if std::env::var("TIDEGATE_TEST_FSYNC").is_ok_and(|set| set == "on") { "on" } else { "off" };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", KEEPER, "keeper"]).arg(programs).arg(port.to_string()).arg(fsync);
    if is_root() {
        shell.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
    }
    // In a group of its own: what stops the tests must not stop the one that clears up behind them.
    let mut keeper = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell can be started");
    let mut output = BufReader::new(keeper.stdout.take().expect("its output is piped"));
    let mut folder = String::new();
    output.read_line(&mut folder).expect("the keeper's output is text");
    let folder = folder.trim();
    assert!(!folder.is_empty(), "the cluster's folder could not be made");
    if answers(&mut keeper, folder, port) {
        return Ok(Cluster { port, databases: AtomicU32::new(0), _keeper: keeper });
    }
    Err(last_words(keeper, output))
}

/// Connects until it is let in (true) or the keeper ends (false). The socket lies in our own folder, so that
/// whoever answers there is our server, whatever else has taken the port meanwhile.
#[expect(clippy::disallowed_methods, reason = "spans how long a cluster takes to start")]
fn answers(keeper: &mut Child, folder: &str, port: u16) -> bool {
    let url = format!("postgres://postgres@localhost:{port}/postgres?host={folder}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let url = url.clone();
        let connected = block_on(async move {
            match PgConnection::connect(&url).await {
                Ok(connection) => connection.close().await.is_ok(),
                Err(_) => false,
            }
        });
        if connected {
            return true;
        }
        if keeper.try_wait().expect("the keeper is our child").is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "PostgreSQL does not answer within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
}

fn last_words(mut keeper: Child, mut output: BufReader<ChildStdout>) -> String {
    let mut log = String::new();
    let _ = output.read_to_string(&mut log);
    let _ = keeper.wait();
    log
}

/// The newest PostgreSQL that Debian has installed, else the one on the PATH.
fn programs() -> Option<PathBuf> {
    let version = |folder: &Path| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = installed.map(|entry| entry.path().join("bin")).filter(|folder| is_complete(folder));
    debian.max_by_key(|folder| version(folder)).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| is_complete(folder))
    })
}

fn is_complete(folder: &Path) -> bool {
    folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// PostgreSQL refuses to run as root.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs a future to its end on a thread of its own, so that it may be called from inside a runtime too.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(future)
        });
        worker.join().expect("it does not panic")
    })
}
