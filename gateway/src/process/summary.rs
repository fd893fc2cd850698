//! What a run of the command comes to: one object on stdout, a few lines on stderr, one exit code.

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::stdout::print;
use storage::model::{Money, StopReason};
use storage::store::{BatchTally, JobRow, PoolCounts};

/// Everything that is said at the end.
#[derive(Debug, Clone)]
pub struct Summary {
    pub job: JobRow,
    pub resumed: bool,
    pub counts: PoolCounts,
    pub batches: BatchTally,
    pub rounds: i64,
    pub out: String,
}

impl Summary {
    /// Done; done with failures; or stopped by a ceiling.
    pub fn exit(&self) -> Exit {
        match self.job.reason {
            Some(reason) if !reason.is_clean() => Exit::Ceiling,
            Some(_) if self.counts.failed > 0 => Exit::ItemsFailed,
            Some(_) => Exit::Done,
            None => Exit::Unexpected,
        }
    }

    fn spent(&self) -> Option<Money> {
        (self.counts.unpriced == 0).then(|| Money::from_nanos(self.counts.spent_nanos))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "job_id": self.job.id.as_str(),
            "source": self.job.source.word(),
            "provider": self.job.scope.provider,
            "resumed": self.resumed,
            "items": {
                "total": self.counts.total,
                "succeeded": self.counts.succeeded,
                "failed": self.counts.failed,
                "pending": self.counts.pending(),
            },
            "rounds": self.rounds,
            "batches": {
                "created": self.batches.created,
                "adopted": self.batches.adopted,
                "unknown": self.batches.unknown,
                "cancelled": self.batches.cancelled,
            },
            "spend_usd": self.spent().map(|spent| spent.to_string()),
            "reserved_usd": Money::from_nanos(self.counts.reserved_nanos).to_string(),
            "stop_reason": self.job.reason.map(StopReason::word),
            "clean": self.job.reason.is_some_and(StopReason::is_clean),
            "out": self.out,
        })
    }

    /// Data on stdout if asked for; words for a person on stderr.
    pub fn print(&self, output: Output, lines: u64) -> Result<(), Failure> {
        let spent = self.spent().map_or("an amount that is not known".to_owned(), |spent| format!("${spent}"));
        let reason = self.job.reason.map_or("?", StopReason::word);
        let PoolCounts { total, succeeded, failed, .. } = self.counts;
        say!(
            "{reason}: {succeeded} of {total} succeeded, {failed} failed, {} pending; spent {spent}",
            self.counts.pending()
        );
        if self.batches.unknown > 0 {
            let unknown = self.batches.unknown;
            say!("{unknown} batches are of unknown fate; see `tidegate batches list --state unknown`");
        }
        say!("{lines} result lines in {}", self.out);
        if let Some(advice) = self.advice() {
            say!("{advice}");
        }
        match output {
            Output::Json | Output::Jsonl => print(&format!("{}\n", self.json())),
            Output::Table => Ok(()),
        }
    }

    fn advice(&self) -> Option<&'static str> {
        match self.job.reason? {
            StopReason::AlreadyEmpty | StopReason::Drained => None,
            StopReason::SpendCap => Some("run it again with a larger --max-usd to go on"),
            StopReason::Wallclock => {
                Some("run it again with a longer --max-wallclock to go on; what is submitted is kept")
            }
            StopReason::MaxRounds => Some("run it again with more --max-rounds to go on"),
            StopReason::Degraded => Some("two rounds in a row failed at 80 % and more; look at the error lines first"),
            StopReason::NoProgress | StopReason::NoOp => Some("nothing could be carried out; see TIDEGATE_LOG=info"),
        }
    }
}
