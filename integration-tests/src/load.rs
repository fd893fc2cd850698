//! Callers that send runs without pause and remember, outside of everything that is killed, what they were told.

use crate::eventually::eventually;
use crate::http::{Answer, Client, Door};
use crate::server::Server;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// What the callers send.
#[derive(Debug, Clone)]
pub struct Mix {
    pub callers: usize,
    /// Each caller has an env of its own among these.
    pub envs: Vec<String>,
    pub tasks: Vec<String>,
    /// Largest request of many runs; 1 for none.
    pub batch_max: usize,
    /// One of so many runs is cancelled right after it was taken; 0 for none.
    pub cancel_one_in: u32,
    pub max_attempts: i64,
    pub seed: u64,
}

impl Mix {
    pub fn of(task: &str, seed: u64) -> Mix {
        Mix {
            callers: 6,
            envs: ["one/dev", "one/prod", "two/dev"].map(str::to_owned).to_vec(),
            tasks: vec![task.to_owned()],
            batch_max: 30,
            cancel_one_in: 20,
            max_attempts: 1_000,
            seed,
        }
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
    /// Runs sent in requests that nobody answered and that could not be sent again.
    pub unanswered: usize,
    /// Requests that were sent again, by the same key, because nobody had answered.
    pub retried: usize,
    /// Requests by what else they were answered with.
    pub refused: BTreeMap<u16, usize>,
    /// Answers that should not have been.
    pub wrong: Vec<String>,
}

impl Tally {
    fn join(&mut self, other: Tally) {
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
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let start = |number: usize| {
            let env = mix.envs[number % mix.envs.len()].clone();
            let caller = Caller {
                client: Client::new(door).in_env(&env),
                door: door.clone(),
                env,
                mix: mix.clone(),
                number,
                next_key: 0,
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
    client: Client,
    door: Door,
    env: String,
    mix: Mix,
    number: usize,
    next_key: u64,
    rng: StdRng,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    tally: Tally,
}

impl Caller {
    fn work(mut self) -> Tally {
        while !self.stop.load(Ordering::SeqCst) {
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
        json!({"task": task, "payload": {"caller": self.number, "number": number}, "max_attempts": self.mix.max_attempts})
    }

    /// Waits until there is a server, or nobody wants more.
    fn wait_for_door(&self) {
        eventually("there is a server", || self.door.addr().is_some() || self.stop.load(Ordering::SeqCst));
    }

    fn send(&mut self, path: &str, body: &Value) -> Option<Answer> {
        self.wait_for_door();
        self.client.send("POST", path, Some(&body.to_string())).ok()
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
                None if self.stop.load(Ordering::SeqCst) && self.door.addr().is_none() => {
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
