//! `tidegate serve` on a store of its own: started, asked, killed, started again, and looked into after its end.
//!
//! Whatever a server writes on stderr is kept. An ERROR line or a panic that the test did not announce fails
//! the test, at the latest when the server is dropped. No server outlives this process.

use crate::case::{Database, Ended, binary};
use crate::eventually::{Deadline, eventually};
use crate::http::{Client, Door};
use crate::machine::{has_landlock, is_root};
use crate::sql::{self, Row};
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// A server under test, and everything that stays when it dies.
pub struct Server {
    pub database: Database,
    /// Its working folder, with the configuration file and the SQLite file.
    pub dir: tempfile::TempDir,
    pub store: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    expected: Vec<String>,
    /// What becomes the binary, besides what every test does.
    user: Vec<String>,
    door: Door,
    ops: Door,
    running: Option<Running>,
    /// Of all incarnations so far.
    lines_before: Vec<String>,
    pub starts: usize,
}

struct Running {
    child: Child,
    log: Arc<Log>,
    reader: JoinHandle<()>,
}

/// Lines of stderr as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    news: Condvar,
}

impl Log {
    fn read(&self, stderr: impl std::io::Read) {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.with(|(lines, _)| lines.push(text));
            line.clear();
        }
        self.with(|(_, ended)| *ended = true);
    }

    fn with(&self, change: impl FnOnce(&mut (Vec<String>, bool))) {
        change(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        self.news.notify_all();
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// What the first line that has it gives; `None` when the log ends without.
    fn wait<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Deadline::from_now();
        let mut held = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = held.0.iter().find_map(|line| find(line)) {
                return Some(found);
            }
            let left = deadline.left();
            if held.1 || left.is_zero() {
                return None;
            }
            held = self.news.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The port of an address in a line such as `listening on http://127.0.0.1:41234`.
fn port_after(line: &str, words: &str) -> Option<u16> {
    let rest = line.split_once(words)?.1;
    rest.split('/').next()?.rsplit(':').next()?.parse().ok()
}

/// Starts a process that is killed when this one ends, however it ends: by a thread that lives as long.
pub(crate) fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, answered) = channel();
    orders.send((command, answer)).expect("the thread that starts processes");
    answered.recv().expect("its answer").expect("setpriv starts")
}

/// The binary under `setpriv --pdeathsig`, which becomes it.
pub(crate) fn mortal() -> Command {
    mortal_as(&[], &binary())
}

fn mortal_as(user: &[String], binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(user).args(["--pdeathsig", "KILL", "--"]).arg(binary);
    command
}

impl Server {
    /// A server that is not started yet, on an empty store.
    pub fn on(database: Database) -> Server {
        let dir = tempfile::tempdir().expect("a folder");
        let store = match database {
            Database::Sqlite => format!("sqlite:{}", dir.path().join("state.sqlite").display()),
            Database::Postgres => crate::postgres::cluster().fresh_database(),
        };
        // On SQLite the file's lock proves that the one before is dead; elsewhere its lease has to run out.
        let lease = if database == Database::Postgres { "1.5" } else { "15" };
        let server = Server {
            database,
            dir,
            store,
            env: Vec::new(),
            args: Vec::new(),
            expected: Vec::new(),
            user: Vec::new(),
            door: Door::default(),
            ops: Door::default(),
            running: None,
            lines_before: Vec::new(),
            starts: 0,
        };
        server.set("nodes.lease_seconds", lease).set("supervisor.sweep_seconds", "0.3")
    }

    /// As a system service is: of a user of its own, whose only folder is one in root's, with SQLite. Comes first. Only
    /// root can set this up; for others there is none, and none where the kernel cannot hold programs to lists.
    pub fn as_service() -> Option<Server> {
        // Whose processes are counted: nobody else has this number here.
        const SERVICE: u32 = 64_533;
        (is_root() && has_landlock()).then_some(())?;
        let dir = tempfile::Builder::new().prefix("tidegate-test-").tempdir_in("/var/lib").expect("a folder");
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is seen by all");
        let own = dir.path().join("own");
        std::fs::create_dir(&own).expect("a folder");
        std::os::unix::fs::chown(&own, Some(SERVICE), Some(SERVICE)).expect("root may give it away");
        std::fs::copy(binary(), dir.path().join("tidegate")).expect("the binary can be copied");
        let mut server = Server::on(Database::Sqlite);
        server.store = format!("sqlite:{}", own.join("state.sqlite").display());
        server.user = [format!("--reuid={SERVICE}"), format!("--regid={SERVICE}"), "--clear-groups".to_owned()].into();
        server.dir = dir;
        Some(server)
    }

    /// One that is started, with nothing set.
    pub fn start_on(database: Database) -> Server {
        Server::on(database).start()
    }

    /// A setting by its name in the configuration, given by the environment.
    pub fn set(self, key: &str, value: impl ToString) -> Server {
        let name = format!("TIDEGATE_{}", key.to_uppercase().replace('.', "__"));
        self.env(&name, value)
    }

    /// Another value of the environment; the last of a name counts.
    pub fn env(mut self, name: &str, value: impl ToString) -> Server {
        self.change(name, value);
        self
    }

    /// The same for the next start of a server that there is already.
    pub fn change(&mut self, name: &str, value: impl ToString) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_string()));
    }

    pub fn unset(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// What its configuration file says.
    pub fn config(self, text: &str) -> Server {
        std::fs::write(self.dir.path().join("tidegate.toml"), text).expect("the configuration is written");
        self
    }

    pub fn arg(mut self, arg: &str) -> Server {
        self.args.push(arg.to_owned());
        self
    }

    /// On a store that somebody else has made.
    pub fn with_store(mut self, url: &str) -> Server {
        self.store = url.to_owned();
        self
    }

    /// ERROR lines and panics with these words are meant to happen.
    pub fn expecting(mut self, words: &str) -> Server {
        self.expected.push(words.to_owned());
        self
    }

    pub fn start(mut self) -> Server {
        self.again();
        self
    }

    /// Any other command on the same store, with the same settings.
    pub fn command(&self, args: &[&str]) -> Command {
        let copy = (!self.user.is_empty()).then(|| self.dir.path().join("tidegate"));
        let mut command = mortal_as(&self.user, &copy.unwrap_or_else(binary));
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path());
        command.env("TIDEGATE_STORE", &self.store).env("TIDEGATE_LOG", "info").current_dir(self.dir.path());
        command.envs(self.env.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Starts it on the store that it had, and waits until it answers.
    #[track_caller]
    pub fn again(&mut self) {
        self.launch();
        self.listens();
    }

    /// Waits until one that was launched answers.
    #[track_caller]
    pub fn listens(&mut self) {
        let port = self.port("listening on http://");
        let ops = self.port("ops on http://");
        self.door.open(port);
        self.ops.open(ops);
    }

    /// Starts one without the API, and waits until its ops listener answers.
    #[track_caller]
    pub fn start_without_api(mut self) -> Server {
        self.launch();
        let ops = self.port("ops on http://");
        self.ops.open(ops);
        self
    }

    #[track_caller]
    fn port(&mut self, words: &str) -> u16 {
        let Some(port) = self.log().wait(|line| port_after(line, words)) else {
            let ended = self.reap();
            panic!("the server does not start: {ended:?}");
        };
        port
    }

    /// Starts it and waits for nothing: it may be meant to die before it listens.
    pub fn launch(&mut self) {
        assert!(self.running.is_none(), "it is running already");
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
        command.args(&self.args).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(command);
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("its stderr is piped");
        let reader = std::thread::spawn({
            let log = log.clone();
            move || log.read(stderr)
        });
        self.running = Some(Running { child, log, reader });
        self.starts += 1;
    }

    fn log(&self) -> Arc<Log> {
        self.running.as_ref().expect("it is running").log.clone()
    }

    pub fn door(&self) -> Door {
        self.door.clone()
    }

    pub fn client(&self) -> Client {
        Client::new(&self.door)
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it is running").child.id()
    }

    /// Resident memory now, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// The sum of a metric's series that have all these labels, such as `actor="drainer"`; 0 when there is none.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = Client::new(&self.ops).get("//metrics").is(200).text();
        let of_it = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
        };
        text.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Where its ops listener is.
    pub fn ops_addr(&self) -> std::net::SocketAddr {
        self.ops.addr().expect("it is up")
    }

    /// A path of the ops listener, such as `/readyz`.
    pub fn ops(&self, path: &str) -> crate::http::Answer {
        Client::new(&self.ops).get(&format!("/{path}"))
    }

    /// Whether it says that it can do what is asked of it; not when it does not answer at all.
    pub fn is_ready(&self) -> bool {
        let answer = Client::new(&self.ops).send("GET", "//readyz", None);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Everything that all incarnations have said so far.
    pub fn lines(&self) -> Vec<String> {
        let now = self.running.as_ref().map(|running| running.log.lines()).unwrap_or_default();
        self.lines_before.iter().cloned().chain(now).collect()
    }

    /// Waits until it has said this.
    #[track_caller]
    pub fn says(&self, words: &str) {
        let said = self.log().wait(|line| line.contains(words).then_some(()));
        assert!(said.is_some(), "it never said `{words}`: {:#?}", self.lines());
    }

    /// SIGKILL, and waits for its end. Nothing happens when it is dead already.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.door.close();
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            self.reap();
            self.check_log();
        }
    }

    /// Any signal, by its name.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()), "the signal is sent");
    }

    /// SIGTERM; it must end by itself with exit code 0.
    #[track_caller]
    pub fn stop(&mut self) -> Ended {
        self.signal("TERM");
        let ended = self.ends();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        ended
    }

    /// Waits for its end, which something else brings about.
    #[track_caller]
    pub fn ends(&mut self) -> Ended {
        let running = self.running.as_mut().expect("it is running");
        eventually("the server ends", || running.child.try_wait().is_ok_and(|status| status.is_some()));
        let ended = self.reap();
        self.check_log();
        ended
    }

    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.child.try_wait().is_ok_and(|status| status.is_none()))
    }

    fn reap(&mut self) -> Ended {
        self.door.close();
        self.ops.close();
        let Running { mut child, log, reader } = self.running.take().expect("it is running");
        let status = child.wait().expect("it is our child");
        // A process that it left behind would hold the pipe open; that is a finding, not a reason to hang.
        let ended = log.wait(|_| None::<()>);
        debug_assert!(ended.is_none());
        drop(reader);
        let lines = log.lines();
        let stderr = lines.join("\n");
        self.lines_before.extend(lines);
        Ended { code: status.code(), signal: status.signal(), stdout: String::new(), stderr }
    }

    /// The lines that nobody announced and that a human would have to act on.
    pub fn complaints(&self) -> Vec<String> {
        let bad = |line: &String| line.contains(" ERROR ") || line.contains("panicked at");
        let expected = |line: &String| self.expected.iter().any(|words| line.contains(words));
        self.lines().into_iter().filter(|line| bad(line) && !expected(line)).collect()
    }

    #[track_caller]
    fn check_log(&self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
    }

    /// The rows of a query on the store, past the server.
    pub fn rows(&self, query: &str) -> Vec<Row> {
        sql::rows(&self.store, query)
    }

    /// Changes the store past the server.
    pub fn execute(&self, statement: &str) {
        let _ = sql::rows(&self.store, statement);
    }

    /// The one number that a query gives.
    #[track_caller]
    pub fn number(&self, query: &str) -> i64 {
        let rows = self.rows(query);
        let value = rows.first().and_then(|row| row.first().cloned().flatten());
        value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{query}: {rows:?} is no number"))
    }

    /// Waits until no run is open any more, asking through the API of every one of these envs.
    #[track_caller]
    pub fn all_ended<E: AsRef<str>>(&self, envs: &[E]) {
        let deadline = Deadline::long_from_now();
        for env in envs {
            let mut client = self.client().in_env(env.as_ref());
            for status in ["buffered", "delayed", "queued", "running"] {
                let path = format!("/runs?status={status}&limit=1");
                // One status after the other: a run only goes forward, unless a try fails.
                while client.get(&path).is(200).json()["data"].as_array().is_some_and(|data| !data.is_empty()) {
                    assert!(!deadline.is_over(), "runs of {} are still {status}: {:?}", env.as_ref(), self.standing());
                    std::thread::yield_now();
                }
            }
        }
        let open = self.number("SELECT COUNT(*) FROM run_records WHERE state = 'open'");
        assert!(open == 0 || !deadline.is_over(), "{open} runs are still open: {:?}", self.standing());
        if open > 0 {
            self.all_ended(envs);
        }
    }

    /// How many runs stand where, by task and queue.
    pub fn standing(&self) -> Vec<Row> {
        let tables = ["buffer", "ready", "leases"]
            .map(|table| format!("SELECT '{table}', env, task, COUNT(*), MIN(run_id) FROM {table} GROUP BY env, task"));
        self.rows(&tables.join(" UNION ALL "))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            self.reap();
        }
        let complaints = self.complaints();
        if std::thread::panicking() {
            let lines = self.lines();
            let last = lines.len().saturating_sub(60);
            eprintln!("the server's last words:\n{}", lines[last..].join("\n"));
            let whole = tempfile::Builder::new().prefix("tidegate-server-").suffix(".log").tempfile();
            if let Some((mut file, path)) = whole.ok().and_then(|file| file.keep().ok()) {
                let _ = std::io::Write::write_all(&mut file, lines.join("\n").as_bytes());
                eprintln!("all of them are kept in {}", path.display());
            }
        } else {
            assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
        }
    }
}
