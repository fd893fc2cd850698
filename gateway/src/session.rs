//! What commands share: the configuration, the store they open, and the runtime they run on.

use crate::cli::Common;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use rand::SeedableRng;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::model::{Clock, IdMint, NodeId, SystemClock, Timestamp};
use storage::store::{OpenOptions, Store};
use tokio::runtime::Runtime;

/// A clock before this is wrong for certain.
const YEAR_2020: Timestamp = Timestamp::from_millis(1_577_836_800_000);

/// Threads that every command comes to need: the runtime's, the store's connections', the actors'.
const THREADS: usize = 16;

/// Asks for as many threads as will be needed, and lets them go again: the runtime would panic where the
/// system grants no more, far from where that can be explained.
fn assert_threads() -> Result<(), Failure> {
    let gate = Mutex::new(());
    let held = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let wait = || drop(gate.lock());
    std::thread::scope(|scope| {
        let started: Result<Vec<_>, _> =
            (0..THREADS).map(|_| std::thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, wait)).collect();
        drop(held);
        started.map(|_| ())
    })
    .map_err(|error| {
        let what = format!("cannot start {THREADS} threads: {error}");
        Failure::new(Exit::Unexpected, what).hint("raise the limit of processes (ulimit -u, or the service's TasksMax)")
    })
}

/// The shared multi-thread runtime: database connections and provider calls live on it.
pub fn runtime() -> Result<Arc<Runtime>, Failure> {
    assert_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("tidegate").build();
    let cannot = |error| Failure::new(Exit::Unexpected, format!("cannot start the runtime: {error}"));
    runtime.map(Arc::new).map_err(cannot)
}

/// The store's URL: as given, as a file says, or a SQLite file in the user's state directory.
pub fn store_url(common: &Common) -> Result<String, Failure> {
    if let Some(url) = common.store.as_ref().filter(|url| !url.is_empty()) {
        return Ok(url.clone());
    }
    if let Some(path) = common.store_file.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        let unreadable = |error| Failure::usage(format!("--store-file {}: cannot read it: {error}", path.display()));
        let url = std::fs::read_to_string(path).map_err(unreadable)?;
        let empty = || Failure::usage(format!("--store-file {}: there is no URL in it", path.display()));
        return Some(url.trim().to_owned()).filter(|url| !url.is_empty()).ok_or_else(empty);
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let folder = state.or(home).ok_or_else(|| {
        Failure::usage("neither --store, TIDEGATE_STORE, XDG_STATE_HOME nor HOME says where to keep the state")
    })?;
    let path = folder.join("tidegate/tidegate.sqlite");
    let text = path.to_str().ok_or_else(|| Failure::usage("the state directory's name is not valid UTF-8"))?;
    Ok(format!("sqlite:{text}"))
}

/// Opens the store as a fresh node; the schema is created and migrated.
pub async fn open_store(common: &Common, config: &Config) -> Result<Store, Failure> {
    let now = SystemClock.now();
    if now < YEAR_2020 {
        say!("warning: this machine's clock says {now}; listings are searched by time, so set it right");
    }
    let mut ids = IdMint::new(rand::rngs::StdRng::from_rng(&mut rand::rng()));
    let node = NodeId::mint(&mut ids, SystemClock.now());
    let options = OpenOptions { url: store_url(common)?, node, lease: lease(config) };
    Ok(Store::open(options).await?)
}

pub fn lease(config: &Config) -> Duration {
    Duration::from_secs_f64(config.nodes.lease_seconds)
}
