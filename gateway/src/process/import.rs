//! Turns the lines of the file into runs, in chunks; a killed import goes on after its last chunk.

use crate::exit::{Exit, Failure};
use crate::input::{Kinds, Limits, Request, requests};
use actors::Parts;
use actors::price::PriceTable;
use actors::provider::request::pack_of;
use std::path::Path;
use storage::failpoint::{Failpoint, reached};
use storage::model::{NewRun, RunId};
use storage::store::JobRow;

/// Lines per transaction, and bytes: whichever comes first.
const CHUNK_LINES: usize = 1_000;
const CHUNK_BYTES: usize = 8 << 20;

/// Imports what the pool does not hold yet, and checks that the file is still the one that was scanned.
pub async fn import(path: &Path, job: &JobRow, kinds: &Kinds, parts: &Parts) -> Result<(), Failure> {
    let store = &parts.store;
    let changed = || {
        Failure::new(Exit::Conflict, format!("{} changed while it was being read", path.display()))
            .hint("run the command again when nothing writes to the file any more")
    };
    let usage = |error: crate::input::InputError| Failure::usage(error.to_string());
    let already = store.pool_counts(&job.pool).await?.total;
    let mut held = already;
    let mut lines = requests(path, &Limits::default()).map_err(usage)?;
    let mut chunk: Vec<NewRun> = Vec::with_capacity(CHUNK_LINES);
    let (mut seq, mut bytes) = (0, 0);
    while held < job.expected {
        let next = lines.next_request().map_err(usage)?;
        if let Some(request) = &next {
            seq += 1;
            if seq <= already {
                continue;
            }
            bytes += request.body.len();
            chunk.push(run(request, seq, kinds, parts));
        }
        if next.is_none() || chunk.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES {
            if chunk.is_empty() {
                return Err(changed());
            }
            let holder = (&job.id, job.epoch);
            store.import_runs(holder, &job.pool, held, job.scope.max_attempts, &chunk, store.now()).await?;
            metrics::counter!(actors::metrics::RUNS_ACCEPTED, "path" => "import").increment(chunk.len() as u64);
            held += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            chunk.clear();
            bytes = 0;
            if next.is_none() && held < job.expected {
                return Err(changed());
            }
        }
    }
    let whole = lines.finish().map_err(usage)?.to_string();
    if whole != job.scope.input_sha256 {
        return Err(changed());
    }
    reached(Failpoint::ImportDone);
    Ok(())
}

fn run(request: &Request<'_>, seq: i64, kinds: &Kinds, parts: &Parts) -> NewRun {
    let mut ids = parts.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    NewRun {
        id: RunId::mint(&mut ids, parts.store.now()),
        seq,
        custom_id: request.custom_id.clone().into_owned(),
        pack: pack_of(request.url, &request.model, kinds.own_pack(request)),
        body: request.body.to_owned(),
        reserve_nanos: reserve(request, &parts.prices.now()).map(|bound| bound.nanos()),
    }
}

/// Most that one try of a request can cost; `None` when that cannot be known.
pub fn reserve(request: &Request<'_>, prices: &PriceTable) -> Option<storage::model::Money> {
    let rates = prices.rates(&request.model)?;
    rates.upper_bound(request.prompt_tokens_max?, request.max_tokens, request.choices)
}
