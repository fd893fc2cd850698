//! An operator's answer about a batch: it is that one at the provider, or it is given up.

use crate::exit::{Exit, Failure};
use crate::output::note;
use std::io::{self, BufRead, IsTerminal, Write};
use storage::Class;
use storage::model::{BatchEvent, BatchState, Mode, Money, RequestState};
use storage::store::{BatchRow, Fence, IdOwner, Store, Verdict};

const PER_TRANSACTION: i64 = 500;
const WHY: &str = "given up by an operator";

/// Says that a batch of unknown fate is this one at the provider.
pub async fn adopt(store: &Store, row: &BatchRow, provider_id: &str) -> Result<(), Failure> {
    if provider_id.is_empty() || provider_id.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Failure::usage("--provider-batch-id must be the id as the provider shows it, without blanks"));
    }
    if row.state.after(BatchEvent::Found).is_none() {
        let what = format!("batch {} is {}; only one of unknown fate can be adopted", row.id, row.state);
        return Err(Failure::new(Exit::Conflict, what).hint(elsewhere(row.state, &row.id.to_string())));
    }
    let owners = store.owners_of_provider_id(&row.account, provider_id).await?;
    if let Some(failure) = owners.iter().find_map(|owner| objection(row, provider_id, owner)) {
        return Err(failure);
    }
    let fence = take(store, row).await?;
    store.found(&fence, provider_id, true, store.now()).await.map_err(|error| match error.class() {
        Class::Conflict => Failure::new(Exit::Conflict, error).hint("somebody else was faster: look at it again"),
        Class::Retryable | Class::Terminal | Class::Corrupt => error.into(),
    })?;
    Ok(())
}

/// Why a provider batch cannot be this one. That it was proven not to be another's is no objection.
fn objection(row: &BatchRow, provider_id: &str, owner: &IdOwner) -> Option<Failure> {
    let holder = &owner.batch_id;
    let what = match owner.booked_as.as_deref() {
        None => format!("{provider_id} belongs to batch {holder}"),
        Some("foreign") if *holder == row.id.as_str() => {
            format!("the results of {provider_id} carry another batch's key: it was adopted for {holder} before")
        }
        Some("foreign") => return None,
        Some(state) => format!("{provider_id} is booked as a duplicate of batch {holder} ({state})"),
    };
    Some(Failure::new(Exit::Conflict, what).hint(format!("see `tidegate batches get {holder}`")))
}

/// Off a terminal nobody can be asked.
pub fn require_consent(yes: bool) -> Result<(), Failure> {
    if yes || io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage("abandoning a batch may bill its requests twice").hint("add --yes to do it without being asked"))
}

/// Tells what giving a batch up means, and asks whether that is meant. `false` when the operator declined.
pub fn is_meant(row: &BatchRow, yes: bool) -> Result<bool, Failure> {
    may_be_abandoned(row)?;
    note(consequence(row));
    if !yes && !confirmed()? {
        note("nothing was changed");
        return Ok(false);
    }
    Ok(true)
}

fn may_be_abandoned(row: &BatchRow) -> Result<(), Failure> {
    if row.state.after(BatchEvent::Abandoned).is_some() {
        return Ok(());
    }
    let what = format!("batch {} is {}; only one that is unknown or planned can be abandoned", row.id, row.state);
    Err(Failure::new(Exit::Conflict, what).hint(elsewhere(row.state, &row.id.to_string())))
}

/// Gives a batch up and queues its runs again; returns how many.
pub async fn abandon(store: &Store, row: &BatchRow) -> Result<i64, Failure> {
    may_be_abandoned(row)?;
    let fence = take(store, row).await?;
    let requeued = settle_open(store, row, &fence).await?;
    store.abandoned(&fence, row.state, WHY, store.now()).await?;
    Ok(requeued)
}

pub fn consequence(row: &BatchRow) -> String {
    let (id, open) = (&row.id, row.requests - row.succeeded - row.errored - row.uncounted);
    if row.state == BatchState::Planned {
        return format!(
            "batch {id} was not sent: its {open} open requests are queued again, and nothing is billed for it"
        );
    }
    format!(
        "batch {id} is {}: whether the provider has it is not known.\n\
        Abandoning it queues its {open} open requests again. If the provider has the batch after all, they are billed \
        twice,\nand its results are not collected.",
        row.state
    )
}

fn confirmed() -> Result<bool, Failure> {
    let cannot = |error: io::Error| Failure::new(Exit::Unexpected, format!("cannot ask on the terminal: {error}"));
    let mut stderr = io::stderr();
    stderr.write_all(b"Abandon it? [y/N] ").and_then(|()| stderr.flush()).map_err(cannot)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(cannot)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

/// Takes the batch under a new epoch, which fences whoever held it.
async fn take(store: &Store, row: &BatchRow) -> Result<Fence, Failure> {
    match store.take_batch(&row.id, store.now()).await? {
        Some(epoch) => Ok(Fence { batch: row.id.clone(), epoch }),
        None => {
            let holder = row.holder.as_deref().unwrap_or("another node");
            let what = format!("batch {} is held by {holder}, which is alive, or it is over by now", row.id);
            Err(Failure::new(Exit::Conflict, what).hint("stop that process first, or wait for it to end"))
        }
    }
}

/// Settles every open request as canceled, which uses up no attempt, and returns how many runs that queued. What
/// the provider took for them is not known, unless the batch was never sent.
async fn settle_open(store: &Store, row: &BatchRow, fence: &Fence) -> Result<i64, Failure> {
    let cost = Some(Money::ZERO).filter(|_| row.state == BatchState::Planned);
    let mut requeued = 0;
    loop {
        let open = store.open_positions(fence, PER_TRANSACTION).await?;
        if open.is_empty() {
            return Ok(requeued);
        }
        // A canceled request leaves no result line.
        let canceled = |pos: i64| Verdict {
            pos,
            state: RequestState::Canceled,
            code: Some("abandoned".to_owned()),
            cost,
            line: String::new(),
            id_span: 0..0,
        };
        let verdicts: Vec<_> = open.into_iter().map(canceled).collect();
        requeued += store.settle(fence, row.state, row.round, &verdicts, store.now()).await?.requeued;
    }
}

/// Has a batch stopped at its provider. What was carried out before is still delivered and billed; the rest is queued
/// again, and uses up no try. Asked again, nothing changes.
pub async fn cancel(store: &Store, row: &BatchRow) -> Result<(), Failure> {
    if row.cancel_wanted || row.state == BatchState::Cancelling || store.want_cancel(&row.id, store.now()).await? {
        return Ok(());
    }
    let what = match row.mode {
        Mode::Batch => {
            format!("batch {} is {}; only one that its provider has can be stopped there", row.id, row.state)
        }
        _ => format!("batch {} is called live, request by request: there is nothing to stop", row.id),
    };
    Err(Failure::new(Exit::Conflict, what).hint(elsewhere(row.state, &row.id.to_string())))
}

/// What leads on from a state in which no answer is wanted.
fn elsewhere(state: BatchState, id: &str) -> String {
    match state {
        BatchState::Submitting => {
            "run the same `tidegate process` again: it looks for the batch at the provider first".to_owned()
        }
        BatchState::Planned => {
            "it was not sent; `tidegate process` sends it, `tidegate batches abandon` gives it up".to_owned()
        }
        BatchState::Submitted | BatchState::Cancelling | BatchState::Ended => {
            "the provider has it and bills it: run the same `tidegate process` again to collect it".to_owned()
        }
        BatchState::Unknown => format!("see `tidegate batches get {id}`"),
        BatchState::Collected | BatchState::Abandoned => format!("it is over; see `tidegate batches get {id}`"),
    }
}

#[cfg(test)]
mod tests;
