//! `tidegate batches watch`: one batch, from its first event to its end. Going away ends the watching only.

use super::view::{self, Event};
use super::{existing, is_priced, whole};
use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::output::{Reader, Style, send};
use crate::signals::Signals;
use std::time::Duration;
use storage::Class;
use storage::model::{BatchEvent, BatchState};
use storage::store::{BatchRow, Store};
use tokio::time::{MissedTickBehavior, interval};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One thing that happened to a batch, and what is known of how it stood then.
struct Step<'a> {
    event: &'a Event,
    state: BatchState,
    /// The batch itself, where nothing more has happened to it since: of what came before, no counts were kept.
    row: Option<&'a BatchRow>,
}

/// Prints each event as it comes, the ones before included; then how the batch ended decides about the exit code.
pub async fn watch(store: &Store, id: &str, lease: Duration, output: Output) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let (mut look, mut renew) = (interval(LOOK_EVERY), interval(lease / 3));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        let ended = tokio::select! {
            exit = signals.next() => {
                say!("not watching any more; the batch goes on. To watch again: tidegate batches watch {id}");
                return Ok(exit);
            }
            ended = async {
                tokio::select! {
                    _ = look.tick() => seen.look(store, id, output).await,
                    _ = renew.tick() => stay(store, lease).await.map(|()| None),
                }
            } => ended?,
        };
        if let Some(exit) = ended {
            return Ok(exit);
        }
    }
}

/// Nobody is to take this process for one that died. It holds nothing, so that being declared gone is no harm.
async fn stay(store: &Store, lease: Duration) -> Result<(), Failure> {
    match store.renew_lease(lease).await {
        Err(error) if error.class() != Class::Conflict => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What was printed so far.
#[derive(Default)]
struct Seen {
    events: usize,
    state: Option<BatchState>,
}

impl Seen {
    /// Prints what is new; once the batch is over, or nobody reads any more, how to exit.
    async fn look(&mut self, store: &Store, id: &str, output: Output) -> Result<Option<Exit>, Failure> {
        // The row first: when it is over, its last event is among those that are read after it.
        let row = existing(store, id).await?;
        let events = store.batch_events(&row.id).await?;
        for step in self.steps(&events, &row) {
            let shown = match output {
                Output::Table => send(&line(&step))?,
                Output::Jsonl => send(&format!("{}\n", object(&step)))?,
                Output::Json => Reader::Listening,
            };
            if shown == Reader::Gone {
                return Ok(Some(Exit::Done));
            }
        }
        if !row.state.is_terminal() {
            return if store.is_sqlite() { Err(stands_still(&row)) } else { Ok(None) };
        }
        match output {
            Output::Table => {}
            Output::Json => whole(store, &row).await?.print(output, store.now())?,
            Output::Jsonl => {
                send(&format!("{}\n", view::object(&row, is_priced(store, &row).await?)))?;
            }
        }
        Ok(Some(if row.state == BatchState::Collected { Exit::Done } else { Exit::ItemsFailed }))
    }

    /// Those that were not seen yet, with the state that each led to.
    fn steps<'a>(&mut self, events: &'a [Event], row: &'a BatchRow) -> Vec<Step<'a>> {
        let mut steps = Vec::new();
        for event in events.iter().skip(self.events) {
            let before = self.state.unwrap_or(BatchState::Planned);
            let state = BatchEvent::from_word(&event.2).and_then(|event| before.after(event)).unwrap_or(before);
            self.state = Some(state);
            steps.push(Step { event, state, row: None });
        }
        self.events = events.len();
        if let Some(last) = steps.last_mut() {
            last.row = Some(row).filter(|row| row.state == last.state);
        }
        steps
    }
}

/// On SQLite this process is the only one, and it does nothing: to wait would keep the batch from moving on.
fn stands_still(row: &BatchRow) -> Failure {
    let what = format!("batch {} is {}, and nobody goes on with it while its store is watched", row.id, row.state);
    Failure::new(Exit::Conflict, what)
        .hint("a SQLite store has one process at a time: run `tidegate process` or `tidegate serve` again instead")
}

/// When, what, the state that it led to, the counts, and what was told with it: always as many fields.
fn line(step: &Step<'_>) -> String {
    let [at, event, _, data] = view::event_cells(step.event).map(|cell| cell.show(Style::Plain));
    let counts = step.row.map_or("—".to_owned(), |row| {
        let open = view::open(row);
        format!("{} of {} succeeded, {} errored, {open} open", row.succeeded, row.requests, row.errored)
    });
    format!("{at}\t{event}\t{}\t{counts}\t{data}\n", step.state)
}

fn object(step: &Step<'_>) -> serde_json::Value {
    let mut object = view::json_event(step.event);
    object["state"] = step.state.word().into();
    object["requests"] = step.row.map(view::counts).unwrap_or_default();
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::view::tests::batch;

    fn event(word: &str, data: &str) -> Event {
        (1_000, 3, word.to_owned(), data.to_owned())
    }

    #[test]
    fn each_event_is_told_once_with_the_state_it_led_to_and_only_the_last_has_counts() {
        let mut seen = Seen::default();
        let mut events = vec![event("planned", r#"{"requests":9}"#), event("committed", "{}"), event("accepted", "{}")];
        let row = batch(BatchState::Submitted);
        let lines: Vec<String> = seen.steps(&events, &row).iter().map(line).collect();
        let at = "1970-01-01T00:00:01.000Z";
        assert_eq!(
            lines,
            [
                format!("{at}\tplanned\tplanned\t—\t{{\"requests\":9}}\n"),
                format!("{at}\tcommitted\tsubmitting\t—\t—\n"),
                format!("{at}\taccepted\tsubmitted\t4 of 9 succeeded, 2 errored, 2 open\t—\n"),
            ]
        );
        assert!(seen.steps(&events, &row).is_empty());
        events.extend([event("cancel_wanted", "{}"), event("cancel_asked", "{}")]);
        let steps = seen.steps(&events, &row);
        let states: Vec<_> = steps.iter().map(|step| (step.state, step.row.is_some())).collect();
        // The row was read before the last event was: its counts are not those of that moment.
        assert_eq!(states, [(BatchState::Submitted, false), (BatchState::Cancelling, false)]);
        let object = object(&steps[1]);
        assert_eq!((&object["state"], &object["requests"]), (&"cancelling".into(), &serde_json::Value::Null));
    }
}
