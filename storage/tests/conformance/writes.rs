//! Every write that a batch's holder can make, as a value, so that tests can walk all of them.

use crate::fixture::{Fixture, at, says};
use storage::model::{BatchEvent, BatchState, RequestState};
use storage::store::Fence;
use storage::{Store, StoreError};

/// One fenced write, with the state that it is told to expect where the caller chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    UploadStarted,
    FileStored,
    Arm,
    CommitCreate,
    Accepted,
    Declined,
    AnswerLost,
    LookAgain(BatchState),
    CancelAsked,
    Polled(BatchState),
    Ended(BatchState),
    Found,
    FirstAbsence,
    AbsenceProven,
    AdoptionDisproved,
    AdoptionProved,
    Settle(BatchState),
    Collected,
    Abandoned(BatchState),
}

use BatchState::{Cancelling, Ended, Planned, Submitted, Submitting, Unknown};

pub const LIVE: [BatchState; 6] = [Planned, Submitting, Unknown, Submitted, Cancelling, Ended];

pub const WRITES: &[Write] = &[
    Write::UploadStarted,
    Write::FileStored,
    Write::Arm,
    Write::CommitCreate,
    Write::Accepted,
    Write::Declined,
    Write::AnswerLost,
    Write::LookAgain(Planned),
    Write::LookAgain(Submitting),
    Write::LookAgain(Unknown),
    Write::LookAgain(Submitted),
    Write::LookAgain(Cancelling),
    Write::LookAgain(Ended),
    Write::CancelAsked,
    Write::Polled(Submitted),
    Write::Polled(Cancelling),
    Write::Ended(Submitted),
    Write::Ended(Cancelling),
    Write::Found,
    Write::FirstAbsence,
    Write::AbsenceProven,
    Write::AdoptionDisproved,
    Write::AdoptionProved,
    Write::Settle(Planned),
    Write::Settle(Unknown),
    Write::Settle(Ended),
    Write::Collected,
    Write::Abandoned(Planned),
    Write::Abandoned(Unknown),
    Write::Abandoned(Submitted),
];

impl Write {
    /// The only state from which it may change anything.
    pub fn from(self) -> BatchState {
        match self {
            Write::UploadStarted | Write::FileStored | Write::Arm | Write::CommitCreate => Planned,
            Write::Accepted | Write::Declined | Write::AnswerLost => Submitting,
            Write::CancelAsked => Submitted,
            Write::Found | Write::FirstAbsence | Write::AbsenceProven => Unknown,
            Write::AdoptionDisproved | Write::AdoptionProved | Write::Collected => Ended,
            Write::LookAgain(state) | Write::Polled(state) | Write::Settle(state) => state,
            Write::Ended(state) | Write::Abandoned(state) => state,
        }
    }

    /// Whether it needs every request to have its verdict.
    pub fn closes(self) -> bool {
        matches!(self, Write::Collected | Write::Abandoned(_))
    }

    /// The event that it appends; `None` for what leaves the batch in its state.
    pub fn event(self) -> Option<BatchEvent> {
        match self {
            Write::UploadStarted | Write::FileStored | Write::Arm | Write::LookAgain(_) => None,
            Write::Polled(_) | Write::FirstAbsence | Write::AdoptionProved | Write::Settle(_) => None,
            Write::CommitCreate => Some(BatchEvent::Committed),
            Write::Accepted => Some(BatchEvent::Accepted),
            Write::Declined => Some(BatchEvent::Declined),
            Write::AnswerLost => Some(BatchEvent::AnswerLost),
            Write::CancelAsked => Some(BatchEvent::CancelAsked),
            Write::Ended(_) => Some(BatchEvent::Ended),
            Write::Found => Some(BatchEvent::Found),
            Write::AbsenceProven => Some(BatchEvent::AbsenceProven),
            Write::AdoptionDisproved => Some(BatchEvent::AdoptionDisproved),
            Write::Collected => Some(BatchEvent::Collected),
            Write::Abandoned(_) => Some(BatchEvent::Abandoned),
        }
    }

    pub async fn carry_out(self, store: &Store, fence: &Fence) -> Result<(), StoreError> {
        let (now, later) = (at(50), at(90));
        let provider = format!("other provider of {}", fence.batch);
        match self {
            Write::UploadStarted => store.upload_started(fence, now).await,
            Write::FileStored => store.file_stored(fence, "file-9").await,
            Write::Arm => store.arm(fence, Some("lane 9"), now).await,
            Write::CommitCreate => store.commit_create(fence, now).await,
            Write::Accepted => store.accepted(fence, &provider, now).await,
            Write::Declined => store.declined(fence, "no", later, now).await,
            Write::AnswerLost => store.answer_lost(fence, "cut", now).await,
            Write::LookAgain(state) => store.look_again(fence, state, later).await,
            Write::CancelAsked => store.cancel_asked(fence, "stop", now).await,
            Write::Polled(state) => store.polled(fence, state, "busy", later).await,
            Write::Ended(from) => store.ended(fence, from, "done", (Some("o"), None), now).await,
            Write::Found => store.found(fence, &provider, true, now).await,
            Write::FirstAbsence => store.first_absence(fence, now, later).await,
            Write::AbsenceProven => store.absence_proven(fence, at(40), now).await,
            Write::AdoptionDisproved => store.adoption_disproved(fence, now).await,
            Write::AdoptionProved => store.adoption_proved(fence).await,
            Write::Settle(state) => {
                let verdicts = [says(0, RequestState::Succeeded), says(1, RequestState::Errored)];
                store.settle(fence, state, 1, &verdicts, now).await.map(|_| ())
            }
            Write::Collected => store.collected(fence, now).await,
            Write::Abandoned(from) => store.abandoned(fence, from, "given up", now).await,
        }
    }
}

impl Fixture {
    /// A batch in the state from which `write` is legal, with all that the write needs.
    pub async fn ready_for(&self, write: Write) -> Fence {
        let fence = self.batch_in(write.from()).await;
        if write == Write::CommitCreate {
            self.arm(&fence, None, at(3)).await.expect("a planned batch can be armed");
        }
        if write.closes() {
            self.settle_all(&fence, write.from(), RequestState::Missing).await.expect("its requests settle");
        }
        fence
    }
}
