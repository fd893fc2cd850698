//! What to do about a batch: pure decisions over its row and what the provider shows.

use crate::provider::{Listed, Protocol};
use std::collections::HashSet;
use std::time::Duration;
use storage::model::{BatchState, JobState, Timestamp};
use storage::store::{BatchRow, FAILED_OVER};

/// The next step of a batch that this process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing before its time.
    Wait,
    /// Send the input file; first delete what an upload of this batch may have leaked before a crash.
    Upload {
        leaked: bool,
    },
    Create,
    /// A create was intended and its answer was never stored: nobody may guess.
    MarkUnknown,
    Reconcile,
    Poll,
    /// Its requests are calls of their own: make them, one by one.
    GoLive,
    CallLive,
    Collect,
    Done,
}

impl Next {
    /// Whether it may cost money.
    pub fn buys(self) -> bool {
        matches!(self, Next::Upload { .. } | Next::Create | Next::GoLive | Next::CallLive)
    }
}

/// Whether a job was suspended because the store may have forgotten batches; then nothing more of it is bought.
pub fn is_held(state: JobState, detail: Option<&str>) -> bool {
    state == JobState::Suspended && detail.is_some_and(|detail| detail.starts_with(FAILED_OVER))
}

/// The step that a batch's row asks for. Called only while no task of this process is at work on it, so a
/// row that says `submitting` was left behind by somebody who died.
pub fn next(row: &BatchRow, protocol: Protocol, now: Timestamp) -> Next {
    if row.state.is_terminal() {
        return Next::Done;
    }
    if row.state == BatchState::Submitting {
        return Next::MarkUnknown;
    }
    if row.next_at > now {
        return Next::Wait;
    }
    match row.state {
        BatchState::Planned if row.mode.is_live() => Next::GoLive,
        BatchState::Submitted | BatchState::Cancelling if row.mode.is_live() => Next::CallLive,
        BatchState::Planned => match protocol {
            Protocol::OpenAi if row.input_file_id.is_none() => Next::Upload { leaked: row.upload_started_at.is_some() },
            Protocol::OpenAi | Protocol::Anthropic => Next::Create,
        },
        BatchState::Submitting => Next::MarkUnknown,
        BatchState::Unknown => Next::Reconcile,
        BatchState::Submitted | BatchState::Cancelling => Next::Poll,
        BatchState::Ended => Next::Collect,
        BatchState::Collected | BatchState::Abandoned => Next::Done,
    }
}

/// Both vendors end a batch within a day; one that has not ended well after it never will by itself.
const LONGEST_LIFE: Duration = Duration::from_secs(26 * 3_600);

/// Whether a submitted batch should be stopped, so that what it holds can be collected and sent again.
pub fn is_overdue(row: &BatchRow, now: Timestamp) -> bool {
    row.state == BatchState::Submitted && row.submitted_at.is_some_and(|at| now.since(at) > LONGEST_LIFE)
}

/// Whether a batch that was sent in good time should be stopped now, because what is left of its job is wanted
/// sooner than a batch brings it. One that was opened since was opened because live calls cannot be paid.
pub fn is_too_late(row: &BatchRow, too_late_from: Option<Timestamp>, now: Timestamp) -> bool {
    row.state == BatchState::Submitted && too_late_from.is_some_and(|at| row.created_at < at && at <= now)
}

/// What the provider's listing says about a batch of unknown fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is there. `provisional` when only its size says so; `create_no` is which of our creates made it.
    Found {
        id: String,
        provisional: bool,
        create_no: i64,
    },
    /// Several could be it; those that have ended can be told apart by their results.
    Several(Vec<Listed>),
    NotThere,
}

/// Reads a listing (newest first). `known` are provider batches that belong to somebody already.
///
/// OpenAI style: the input file is named by one create only, and the key travels in metadata. A later create than the
/// one that is known was made from a store of which this is a copy. Anthropic style: everything newer than the lane's
/// cursor that nobody owns and that has exactly our size.
pub fn find(row: &BatchRow, protocol: Protocol, listed: &[Listed], known: &HashSet<String>) -> Finding {
    match protocol {
        Protocol::OpenAi => {
            let ours = |batch: &Listed| {
                let by_key = batch.key.as_deref().and_then(|key| create_of(key, row));
                let by_file = row.input_file_id.is_some() && batch.input_file_id == row.input_file_id;
                by_key.or(by_file.then_some(row.create_no)).map(|create_no| (batch.id.clone(), create_no))
            };
            match listed.iter().find_map(ours) {
                Some((id, create_no)) => Finding::Found { id, provisional: false, create_no },
                None => Finding::NotThere,
            }
        }
        Protocol::Anthropic => {
            let newer = listed.iter().take_while(|batch| Some(&batch.id) != row.lane_cursor.as_ref());
            let fits = |batch: &&Listed| batch.requests == Some(row.requests) && !known.contains(&batch.id);
            let candidates: Vec<_> = newer.filter(fits).cloned().collect();
            match candidates.as_slice() {
                [] => Finding::NotThere,
                [one] => Finding::Found { id: one.id.clone(), provisional: true, create_no: row.create_no },
                _ => Finding::Several(candidates),
            }
        }
    }
}

/// Which create of this batch a key is of, unless one that was given up: all before the current one are proven absent.
fn create_of(key: &str, row: &BatchRow) -> Option<i64> {
    let create_no = key.strip_prefix(&row.wire_key)?.strip_prefix('-')?.parse().ok()?;
    (create_no >= row.create_no).then_some(create_no)
}

/// What a look that found nothing leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Write it down as the first of two.
    First { look_again_at: Timestamp },
    /// Not long enough after the first.
    TooSoon { look_again_at: Timestamp },
    /// Absent twice, a settle time apart.
    Proven { since: Timestamp },
    /// This account is never created in again without an operator.
    Held { look_again_at: Timestamp },
}

const LOOKS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

pub fn absence(row: &BatchRow, settle_after: Duration, hold: bool, now: Timestamp) -> Absence {
    let strike = usize::try_from(row.strikes).unwrap_or(0).min(LOOKS.len() - 1);
    let look_again_at = now + LOOKS[strike].min(settle_after);
    let Some(first) = row.first_absent_at else { return Absence::First { look_again_at } };
    if now.since(first) < settle_after {
        return Absence::TooSoon { look_again_at: look_again_at.min(first + settle_after) };
    }
    if hold {
        return Absence::Held { look_again_at: now + LOOKS[LOOKS.len() - 1] };
    }
    Absence::Proven { since: first }
}

/// What a definite refusal of a create is about, by its status and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Come back later with the same.
    TooFast,
    /// The key, the base URL, or what the account may do.
    Account,
    /// The owner has to pay, or has set a limit.
    Billing,
    /// Smaller batches would pass.
    TooLarge,
    /// These requests, as they are.
    Invalid,
    /// Nothing was refused: the provider could not be reached, or the answer never came.
    Unreachable,
}

pub fn refusal(status: Option<u16>, code: Option<&str>) -> Refusal {
    let Some(status) = status else { return Refusal::Unreachable };
    let out_of_money =
        ["insufficient_quota", "billing_hard_limit_reached", "enforced_spend_limit_reached", "billing_error"];
    if status == 402 || code.is_some_and(|code| out_of_money.contains(&code)) {
        return Refusal::Billing;
    }
    match status {
        401 | 403 | 404 | 405 | 407 => Refusal::Account,
        413 => Refusal::TooLarge,
        408 | 409 | 425 | 429 | 499 | 500.. => Refusal::TooFast,
        _ => Refusal::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::{BatchId, Epoch, JobId, Mode, Money, Source};

    fn row(state: BatchState) -> BatchRow {
        BatchRow {
            id: BatchId::from_text("bat_1"),
            env: "default/dev".into(),
            pool: "p".into(),
            job: JobId::from_text("job_1"),
            source: Source::Backfill,
            round: 1,
            provider: "openai".into(),
            account: "a".into(),
            pack: "/v1/responses m".into(),
            mode: Mode::Batch,
            state,
            epoch: Epoch::from_number(1),
            holder: None,
            wire_key: "01k".into(),
            create_no: 1,
            requests: 7,
            body_bytes: 70,
            upload_started_at: None,
            input_file_id: None,
            lane_cursor: Some("cursor".into()),
            intent_at: None,
            provider_batch_id: None,
            provisional: false,
            submitted_at: None,
            provider_status: None,
            output_ref: None,
            error_ref: None,
            ended_at: None,
            first_absent_at: None,
            next_at: Timestamp::from_millis(0),
            strikes: 0,
            reserved: Money::ZERO,
            spent: Money::ZERO,
            succeeded: 0,
            errored: 0,
            uncounted: 0,
            reason: None,
            cancel_wanted: false,
            imported: false,
            created_at: Timestamp::from_millis(0),
            finished_at: None,
        }
    }

    fn listed(id: &str, requests: i64) -> Listed {
        Listed {
            id: id.into(),
            created_at: Timestamp::from_millis(0),
            input_file_id: None,
            key: None,
            requests: Some(requests),
            ended: false,
            results_ref: None,
        }
    }

    #[test]
    fn a_live_batch_is_called_and_never_uploaded_created_or_polled() {
        let at = Timestamp::from_millis(5);
        for (state, step) in [
            (BatchState::Planned, Next::GoLive),
            (BatchState::Submitted, Next::CallLive),
            (BatchState::Cancelling, Next::CallLive),
            (BatchState::Ended, Next::Collect),
        ] {
            for mode in [Mode::Live, Mode::Canary] {
                let live = BatchRow { mode, ..row(state) };
                assert_eq!(next(&live, Protocol::OpenAi, at), step);
                assert_eq!(next(&live, Protocol::Anthropic, at), step);
            }
        }
    }

    #[test]
    fn a_batch_is_stopped_for_being_late_only_if_it_was_sent_before() {
        let at = |millis| Timestamp::from_millis(millis);
        let early = BatchRow { created_at: at(10), ..row(BatchState::Submitted) };
        assert!(is_too_late(&early, Some(at(50)), at(50)));
        assert!(!is_too_late(&early, Some(at(50)), at(49)));
        assert!(!is_too_late(&early, None, at(99)));
        let since = BatchRow { created_at: at(60), ..row(BatchState::Submitted) };
        assert!(!is_too_late(&since, Some(at(50)), at(99)));
        assert!(!is_too_late(&BatchRow { created_at: at(10), ..row(BatchState::Ended) }, Some(at(50)), at(99)));
    }

    #[test]
    fn a_create_left_behind_is_never_repeated_but_marked_unknown_at_once() {
        let mut left = row(BatchState::Submitting);
        left.next_at = Timestamp::from_millis(i64::MAX);
        assert_eq!(next(&left, Protocol::OpenAi, Timestamp::from_millis(5)), Next::MarkUnknown);
    }

    #[test]
    fn states_lead_to_their_steps() {
        let now = Timestamp::from_millis(5);
        let step = |row: &BatchRow| next(row, Protocol::OpenAi, now);
        let mut planned = row(BatchState::Planned);
        assert_eq!(step(&planned), Next::Upload { leaked: false });
        assert_eq!(next(&planned, Protocol::Anthropic, now), Next::Create);
        planned.upload_started_at = Some(now);
        assert_eq!(step(&planned), Next::Upload { leaked: true });
        planned.input_file_id = Some("f".into());
        assert_eq!(step(&planned), Next::Create);
        planned.next_at = Timestamp::from_millis(6);
        assert_eq!(step(&planned), Next::Wait);
        for (state, then) in [
            (BatchState::Unknown, Next::Reconcile),
            (BatchState::Submitted, Next::Poll),
            (BatchState::Cancelling, Next::Poll),
            (BatchState::Ended, Next::Collect),
            (BatchState::Collected, Next::Done),
            (BatchState::Abandoned, Next::Done),
        ] {
            assert_eq!(step(&row(state)), then);
        }
    }

    #[test]
    fn a_batch_that_never_ends_is_stopped_once_after_its_window() {
        let at = |hours: i64| Timestamp::from_millis(hours * 3_600_000);
        let mut stuck = row(BatchState::Submitted);
        stuck.submitted_at = Some(at(0));
        assert!(!is_overdue(&stuck, at(25)));
        assert!(is_overdue(&stuck, at(27)));
        stuck.state = BatchState::Cancelling;
        assert!(!is_overdue(&stuck, at(27)));
    }

    #[test]
    fn a_batch_is_found_by_its_file_or_its_key_and_by_nothing_else() {
        let mut unknown = row(BatchState::Unknown);
        unknown.input_file_id = Some("file-1".into());
        let mut by_file = listed("b1", 7);
        by_file.input_file_id = Some("file-1".into());
        let mut by_key = listed("b2", 7);
        by_key.key = Some("01k-1".into());
        let mut older_create = listed("b3", 7);
        older_create.key = Some("01k-0".into());
        let known = HashSet::new();
        let find = |listed: &[Listed]| find(&unknown, Protocol::OpenAi, listed, &known);
        assert_eq!(
            find(&[older_create.clone(), by_file]),
            Finding::Found { id: "b1".into(), provisional: false, create_no: 1 }
        );
        assert_eq!(find(&[by_key]), Finding::Found { id: "b2".into(), provisional: false, create_no: 1 });
        assert_eq!(find(&[older_create, listed("b4", 7)]), Finding::NotThere);
    }

    #[test]
    fn a_copy_finds_what_its_original_has_created_since_under_a_later_key() {
        let unknown = BatchRow { create_no: 2, ..row(BatchState::Unknown) };
        let with_key = |id: &str, key: &str| Listed { key: Some(key.into()), ..listed(id, 7) };
        let known = HashSet::new();
        for (key, create_no) in [
            ("01k-2", Some(2)),
            ("01k-3", Some(3)),
            ("01k-10", Some(10)),
            // Proven absent before: what is there of it is a duplicate.
            ("01k-1", None),
            ("01k", None),
            ("01k-", None),
            ("01k-x", None),
            ("01k2-2", None),
            ("01-2", None),
        ] {
            let found = find(&unknown, Protocol::OpenAi, &[with_key("there", key)], &known);
            let expected =
                create_no.map(|create_no| Finding::Found { id: "there".into(), provisional: false, create_no });
            assert_eq!(found, expected.unwrap_or(Finding::NotThere), "{key}");
        }
        let both = [with_key("newest", "01k-3"), with_key("older", "01k-2")];
        let newest = Finding::Found { id: "newest".into(), provisional: false, create_no: 3 };
        assert_eq!(find(&unknown, Protocol::OpenAi, &both, &known), newest);
    }

    #[test]
    fn without_metadata_only_an_unowned_batch_of_our_size_after_the_cursor_is_ours() {
        let unknown = row(BatchState::Unknown);
        let known: HashSet<String> = ["owned".to_owned()].into();
        let find = |listed: &[Listed]| find(&unknown, Protocol::Anthropic, listed, &known);
        let provisional = Finding::Found { id: "new".into(), provisional: true, create_no: 1 };
        assert_eq!(find(&[listed("owned", 7), listed("other", 8), listed("new", 7)]), provisional);
        assert_eq!(find(&[listed("cursor", 3), listed("old", 7)]), Finding::NotThere);
        assert!(matches!(find(&[listed("new", 7), listed("too", 7)]), Finding::Several(both) if both.len() == 2));
    }

    #[test]
    fn absence_is_proven_by_two_looks_a_settle_time_apart_and_never_under_hold() {
        let settle = Duration::from_secs(100);
        let mut unknown = row(BatchState::Unknown);
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        assert_eq!(absence(&unknown, settle, false, at(0)), Absence::First { look_again_at: at(2) });
        unknown.first_absent_at = Some(at(0));
        unknown.strikes = 1;
        assert_eq!(absence(&unknown, settle, false, at(2)), Absence::TooSoon { look_again_at: at(12) });
        unknown.strikes = 9;
        assert_eq!(absence(&unknown, settle, false, at(72)), Absence::TooSoon { look_again_at: at(100) });
        assert_eq!(absence(&unknown, settle, false, at(100)), Absence::Proven { since: at(0) });
        assert_eq!(absence(&unknown, settle, true, at(100)), Absence::Held { look_again_at: at(160) });
    }

    #[test]
    fn refusals_are_told_apart() {
        for (status, code, about) in [
            (None, None, Refusal::Unreachable),
            (Some(400), Some("invalid_request_error"), Refusal::Invalid),
            (Some(422), None, Refusal::Invalid),
            (Some(401), Some("invalid_api_key"), Refusal::Account),
            (Some(404), None, Refusal::Account),
            (Some(402), None, Refusal::Billing),
            (Some(429), Some("insufficient_quota"), Refusal::Billing),
            (Some(429), Some("enforced_spend_limit_reached"), Refusal::Billing),
            (Some(429), Some("rate_limit_exceeded"), Refusal::TooFast),
            (Some(529), Some("overloaded_error"), Refusal::TooFast),
            (Some(413), Some("request_too_large"), Refusal::TooLarge),
        ] {
            assert_eq!(refusal(status, code), about, "{status:?} {code:?}");
        }
    }
}
