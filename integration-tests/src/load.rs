//! Callers that send runs without pause and remember, outside of everything that is killed, what they were told.

use crate::eventually::{eventually, patience};
use crate::history::{Entry, History, Kind, now_ms};
use crate::http::{Answer, Client, Door};
use crate::server::Server;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

const AFTER_A_REFUSAL: Duration = Duration::from_millis(100);

/// What the callers send.
#[derive(Debug, Clone)]
pub struct Mix {
    pub callers: usize,
    /// Each caller has an env of its own among these.
    pub envs: Vec<String>,
    pub tasks: Vec<String>,
    /// How many queues the runs are spread over; 0 for the one that each task has.
    pub queues: usize,
    /// Largest request of many runs; 1 for none.
    pub batch_max: usize,
    /// One of so many runs is cancelled right after it was taken; 0 for none.
    pub cancel_one_in: u32,
    /// Before one of so many requests, a run that was acknowledged before is read; 0 for none.
    pub read_one_in: u32,
    /// Between two requests of a caller.
    pub pause: Duration,
    /// Whether every request and every answer is written down.
    pub history: bool,
    pub max_attempts: i64,
    pub seed: u64,
}

impl Mix {
    pub fn of(task: &str, seed: u64) -> Mix {
        Mix {
            callers: 6,
            envs: ["one/dev", "one/prod", "two/dev"].map(str::to_owned).to_vec(),
            tasks: vec![task.to_owned()],
            queues: 0,
            batch_max: 30,
            cancel_one_in: 20,
            read_one_in: 0,
            pause: Duration::ZERO,
            history: false,
            max_attempts: 1_000,
            seed,
        }
    }
}

/// Waits as a caller does who has something else to do.
fn let_pass(span: Duration) {
    let (_held, never) = channel::<()>();
    if !span.is_zero() {
        let _ = never.recv_timeout(span);
    }
}

/// What the callers were told.
#[derive(Debug, Default)]
pub struct Tally {
    /// Acknowledged runs with their env.
    pub acked: HashMap<String, String>,
    /// Acknowledged keys of an env, with the run that each was acknowledged as.
    pub keys: HashMap<(String, String), String>,
    /// Acknowledged runs that went into the buffer.
    pub buffered: usize,
    /// Runs that were said to be cancelled.
    pub cancelled: HashSet<String>,
    /// Runs that were seen to have ended, and how.
    pub ended: HashMap<String, String>,
    /// Runs sent in requests that nobody answered and that could not be sent again.
    pub unanswered: usize,
    /// Requests that were sent again, by the same key, because nobody had answered.
    pub retried: usize,
    /// Requests by what else they were answered with.
    pub refused: BTreeMap<u16, usize>,
    /// Answers that should not have been.
    pub wrong: Vec<String>,
    pub history: History,
}

impl Tally {
    /// What others were told besides.
    pub fn join(&mut self, other: Tally) {
        self.history.join(other.history);
        self.ended.extend(other.ended);
        for (id, env) in other.acked {
            if let Some(before) = self.acked.insert(id.clone(), env) {
                self.wrong.push(format!("{id} was given to two requests, one of {before}"));
            }
        }
        self.keys.extend(other.keys);
        self.buffered += other.buffered;
        self.cancelled.extend(other.cancelled);
        self.unanswered += other.unanswered;
        self.retried += other.retried;
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
        self.wrong.extend(other.wrong);
    }

    /// Holds the store of a server that has ended against what was told; returns how the runs ended.
    #[track_caller]
    pub fn verify(&self, server: &Server) -> BTreeMap<String, usize> {
        assert!(self.wrong.is_empty(), "{} wrong answers, such as {:#?}", self.wrong.len(), self.wrong.first());
        let rows = server.rows("SELECT id, env, state FROM run_records");
        let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
        let stored: HashMap<String, (String, String)> =
            rows.iter().map(|row| (text(&row[0]), (text(&row[1]), text(&row[2])))).collect();
        let lost: Vec<&String> = self.acked.keys().filter(|id| !stored.contains_key(*id)).collect();
        assert!(lost.is_empty(), "{} acknowledged runs are lost, such as {:?}", lost.len(), lost.first());
        let moved = self.acked.iter().find(|(id, env)| stored[*id].0 != **env);
        assert!(moved.is_none(), "a run is in another env: {moved:?}");
        let revived = self.cancelled.iter().find(|id| stored[*id].1 != "cancelled");
        assert!(revived.is_none(), "{revived:?} was said to be cancelled and is not");
        let changed = self.ended.iter().find(|(id, state)| stored[*id].1 != **state);
        assert!(changed.is_none(), "a run was seen to have ended otherwise: {changed:?} (invariant 1)");
        let unknown = stored.len() - self.acked.len();
        assert!(unknown <= self.unanswered, "{unknown} runs that nobody sent; {} are unanswered", self.unanswered);
        let doubled = server.rows(
            "SELECT env, idempotency_key, COUNT(*) FROM run_records WHERE idempotency_key IS NOT NULL
            GROUP BY env, idempotency_key HAVING COUNT(*) > 1",
        );
        assert!(doubled.is_empty(), "keys made more than one run: {doubled:?}");
        crate::sql::audit_at_rest(&server.store);
        let mut ends = BTreeMap::new();
        for (_, state) in stored.into_values() {
            *ends.entry(state).or_default() += 1;
        }
        ends
    }
}

/// Callers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub fn start(door: &Door, mix: &Mix) -> Load {
        Load::over(std::slice::from_ref(door), patience(), mix)
    }

    /// Callers who turn to any of several servers of one store, and take a silence of this long for no answer.
    pub fn over(doors: &[Door], within: Duration, mix: &Mix) -> Load {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let start = |number: usize| {
            let env = mix.envs[number % mix.envs.len()].clone();
            let caller = Caller {
                clients: doors.iter().map(|door| Client::new(door).in_env(&env).within(within)).collect(),
                doors: doors.to_vec(),
                env,
                mix: mix.clone(),
                number,
                next_key: 0,
                taken: Vec::new(),
                rng: StdRng::seed_from_u64(mix.seed.wrapping_add(number as u64)),
                stop: stop.clone(),
                acked: acked.clone(),
                tally: Tally::default(),
            };
            std::thread::spawn(move || caller.work())
        };
        let callers = (0..mix.callers).map(start).collect();
        Load { stop, acked, callers }
    }

    /// Runs acknowledged so far.
    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::SeqCst)
    }

    /// Returns once so many more were acknowledged.
    #[track_caller]
    pub fn has_more(&self, runs: usize) {
        let before = self.acked();
        eventually("runs are taken in", || self.acked() >= before + runs);
    }

    /// Ends all callers; the server must be there, so that what has a key can be sent to its end.
    #[track_caller]
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut tally = Tally::default();
        for caller in self.callers.drain(..) {
            tally.join(caller.join().expect("a caller does not panic"));
        }
        tally
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Caller {
    clients: Vec<Client>,
    doors: Vec<Door>,
    env: String,
    mix: Mix,
    number: usize,
    next_key: u64,
    /// Its runs, for it to look at again.
    taken: Vec<String>,
    rng: StdRng,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    tally: Tally,
}

impl Caller {
    fn work(mut self) -> Tally {
        while !self.stop.load(Ordering::SeqCst) {
            let_pass(self.mix.pause);
            if self.mix.read_one_in > 0 && self.rng.random_ratio(1, self.mix.read_one_in) {
                self.read();
            }
            match self.rng.random_range(0..4) {
                0 if self.mix.batch_max > 1 => self.batch(),
                1 => self.with_key(),
                _ => self.without_key(),
            }
        }
        self.tally
    }

    fn wish(&mut self) -> Value {
        let task = self.mix.tasks[self.rng.random_range(0..self.mix.tasks.len())].clone();
        let number = self.rng.random_range(0..1_000_000);
        let payload = json!({"caller": self.number, "number": number});
        let mut wish = json!({"task": task, "payload": payload, "max_attempts": self.mix.max_attempts});
        if self.mix.queues > 0 {
            wish["queue"] = Value::from(format!("q{}", self.rng.random_range(0..self.mix.queues)));
        }
        wish
    }

    /// The one server, or any that there is; waits until there is one, or nobody wants more.
    fn server(&mut self) -> usize {
        let mut open = Vec::new();
        eventually("there is a server", || {
            open = (0..self.doors.len()).filter(|at| self.doors[*at].addr().is_some()).collect();
            !open.is_empty() || self.stop.load(Ordering::SeqCst)
        });
        match open.len() {
            0 | 1 => open.first().copied().unwrap_or(0),
            servers => open[self.rng.random_range(0..servers)],
        }
    }

    fn is_nobody_there(&self) -> bool {
        self.doors.iter().all(|door| door.addr().is_none())
    }

    fn send(&mut self, path: &str, body: &Value) -> Option<Answer> {
        self.ask("POST", path, Some(body))
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let node = self.server();
        let key = body.and_then(|body| body["idempotency_key"].as_str()).map(str::to_owned);
        let entry = Entry {
            at: now_ms(),
            caller: self.number,
            node,
            kind: Kind::Invoke,
            path: path.to_owned(),
            key,
            run: None,
            status: None,
        };
        self.note(entry.clone());
        let text = body.map(Value::to_string);
        let answer = self.clients[node].send(method, path, text.as_deref()).ok();
        let status = answer.as_ref().map(|answer| answer.status);
        let run = answer.as_ref().filter(|answer| matches!(answer.status, 201 | 202)).map(|answer| answer.field("id"));
        let kind = Kind::of(status);
        self.note(Entry { at: now_ms(), kind, run, status, ..entry });
        if kind == Kind::Info && self.doors.len() > 1 {
            // Whoever knows another server turns to it, and not again and again to one that refuses.
            let_pass(AFTER_A_REFUSAL);
        }
        answer
    }

    fn note(&mut self, entry: Entry) {
        if self.mix.history {
            self.tally.history.push(entry);
        }
    }

    /// Reads any of its runs; one that was seen to have ended may not be seen otherwise ever after.
    fn read(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let id = self.taken[self.rng.random_range(0..self.taken.len())].clone();
        let Some(answer) = self.ask("GET", &format!("/runs/{id}"), None) else { return };
        if answer.status != 200 {
            return self.refused_runs(&answer, 0);
        }
        let status = answer.field("status");
        let before = self.tally.ended.get(&id).filter(|before| **before != status);
        if let Some(before) = before {
            self.tally.wrong.push(format!("{id} was {before} and is {status}"));
        } else if !["buffered", "delayed", "queued", "running"].contains(&status.as_str()) {
            self.tally.ended.insert(id, status);
        }
    }

    fn without_key(&mut self) {
        let body = self.wish();
        match self.send("/runs", &body) {
            None => self.tally.unanswered += 1,
            Some(answer) if matches!(answer.status, 201 | 202) => {
                let id = answer.field("id");
                self.took(&id);
                self.tally.buffered += usize::from(answer.status == 202);
                if self.mix.cancel_one_in > 0 && self.rng.random_ratio(1, self.mix.cancel_one_in) {
                    self.cancel(&id);
                }
            }
            Some(answer) => self.refused_runs(&answer, 1),
        }
    }

    fn cancel(&mut self, id: &str) {
        let Some(answer) = self.send(&format!("/runs/{id}/cancel"), &json!({})) else { return };
        if answer.status == 200 && answer.field("status") == "cancelled" {
            self.tally.cancelled.insert(id.to_owned());
        } else if !matches!(answer.status, 200 | 202) {
            self.refused_runs(&answer, 0);
        }
    }

    /// A request with a key is sent until it is answered, and sometimes once more.
    fn with_key(&mut self) {
        let key = format!("key-{}-{}", self.number, self.next_key);
        self.next_key += 1;
        let mut body = self.wish();
        body["idempotency_key"] = Value::from(key.clone());
        let id = loop {
            match self.send("/runs", &body) {
                None if self.stop.load(Ordering::SeqCst) && self.is_nobody_there() => {
                    self.tally.unanswered += 1;
                    return;
                }
                None => self.tally.retried += 1,
                Some(answer) if matches!(answer.status, 201 | 202) => break answer.field("id"),
                Some(answer) => {
                    self.refused_runs(&answer, 0);
                    if !matches!(answer.status, 409 | 429 | 503) || self.stop.load(Ordering::SeqCst) {
                        // An answer of 503 may hide a commit: the run may be there.
                        self.tally.unanswered += 1;
                        return;
                    }
                }
            }
        };
        self.took(&id);
        self.tally.keys.insert((self.env.clone(), key), id.clone());
        match self.rng.random_range(0..10) {
            0 => {
                let Some(answer) = self.send("/runs", &body) else { return };
                let replayed = answer.header("idempotency-replayed") == Some("true");
                if matches!(answer.status, 201 | 202) && !(replayed && answer.field("id") == id) {
                    self.tally.wrong.push(format!("the key of {id} made {answer:?}"));
                }
            }
            1 => {
                body["payload"] = json!("another");
                let Some(answer) = self.send("/runs", &body) else { return };
                if matches!(answer.status, 200..300) {
                    self.tally.wrong.push(format!("another body with the key of {id} was taken: {answer:?}"));
                }
            }
            _ => {}
        }
    }

    fn batch(&mut self) {
        let count = self.rng.random_range(2..=self.mix.batch_max);
        let runs: Vec<Value> = (0..count).map(|_| self.wish()).collect();
        match self.send("/runs/batch", &json!({ "runs": runs })) {
            None => self.tally.unanswered += count,
            Some(answer) if answer.status == 200 => {
                let body = answer.json();
                let verdicts = body["data"].as_array().cloned().unwrap_or_default();
                let ids: Vec<&str> = verdicts.iter().filter_map(|verdict| verdict["run"]["id"].as_str()).collect();
                if ids.len() != count {
                    self.tally.wrong.push(format!("{} of {count} runs of a request were taken: {body}", ids.len()));
                }
                ids.into_iter().for_each(|id| self.took(id));
                self.tally.buffered += verdicts.iter().filter(|verdict| verdict["status"] == 202).count();
            }
            Some(answer) => self.refused_runs(&answer, count),
        }
    }

    fn took(&mut self, id: &str) {
        self.acked.fetch_add(1, Ordering::SeqCst);
        if self.mix.read_one_in > 0 {
            self.taken.push(id.to_owned());
        }
        if self.tally.acked.insert(id.to_owned(), self.env.clone()).is_some() {
            self.tally.wrong.push(format!("{id} was given to two requests"));
        }
    }

    fn refused_runs(&mut self, answer: &Answer, runs: usize) {
        *self.tally.refused.entry(answer.status).or_default() += 1;
        match answer.status {
            // Whether it was stored cannot be known: the store was away, or went away.
            503 => self.tally.unanswered += runs,
            409 | 422 | 429 => {}
            _ => self.tally.wrong.push(format!("{answer:?}")),
        }
    }
}
