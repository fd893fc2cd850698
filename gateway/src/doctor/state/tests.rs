use super::super::Verdict;
use super::*;
use storage::model::{BatchId, Epoch, JobId, Mode, Money, Source};

const HOUR: i64 = 3_600_000;

fn now() -> Timestamp {
    Timestamp::from_millis(100 * HOUR)
}

fn batch(state: BatchState, holder: Option<&str>, submitted_hours_ago: i64) -> BatchRow {
    let at = Timestamp::from_millis(100 * HOUR - submitted_hours_ago * HOUR);
    BatchRow {
        id: BatchId::from_text(format!("bat_{state}")),
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
        holder: holder.map(str::to_owned),
        wire_key: "01k".into(),
        create_no: 1,
        requests: 1,
        body_bytes: 1,
        upload_started_at: None,
        input_file_id: None,
        lane_cursor: None,
        intent_at: None,
        provider_batch_id: None,
        provisional: false,
        submitted_at: Some(at),
        provider_status: None,
        output_ref: None,
        error_ref: None,
        ended_at: None,
        first_absent_at: None,
        next_at: now(),
        strikes: 0,
        reserved: Money::ZERO,
        spent: Money::ZERO,
        succeeded: 0,
        errored: 0,
        uncounted: 0,
        reason: None,
        cancel_wanted: false,
        imported: false,
        created_at: at,
        finished_at: None,
    }
}

fn said(batch: BatchRow) -> String {
    let checks = batches(&[batch], &HashSet::from(["node_alive"]), now());
    assert_eq!(checks.len(), 1, "{checks:?}");
    format!("{} {}", checks[0].verdict.word(), checks[0].what)
}

#[test]
fn batches_that_wait_for_somebody_are_named() {
    let none = "ok 1 in flight, none that needs a look";
    for (state, holder, hours, words) in [
        (BatchState::Unknown, Some("node_alive"), 1, "warn 1 of unknown fate"),
        (BatchState::Submitting, None, 0, "warn 1 left in the middle of their create"),
        (BatchState::Submitting, Some("node_alive"), 0, none),
        (BatchState::Submitted, None, 19, none),
        (BatchState::Submitted, None, 20, "warn 1 near the end of their 24 h"),
        (BatchState::Cancelling, None, 24, "warn 1 past their 24 h"),
        (BatchState::Ended, Some("node_gone"), 2, "warn 1 ended with results that nobody is collecting"),
        (BatchState::Ended, Some("node_alive"), 2, none),
        (BatchState::Planned, None, 90, none),
    ] {
        let said = said(batch(state, holder, hours));
        assert!(said.starts_with(words), "{state} {hours}: {said}");
    }
}

#[test]
fn lapsed_leases_and_skewed_clocks_deserve_a_look() {
    let node = |until| NodeRow {
        id: "node_1".into(),
        host: "h".into(),
        pid: 7,
        state: "live".into(),
        lease_until: until,
        level: 1,
    };
    assert_eq!(lapsed(&[node(101 * HOUR)], now()).verdict, Verdict::Ok);
    let check = lapsed(&[node(99 * HOUR), node(101 * HOUR)], now());
    assert_eq!(check.verdict, Verdict::Warn);
    assert!(check.what.starts_with("1 with a lapsed lease; first node_1 (pid 7) on h"), "{}", check.what);
    assert_eq!(skew(-1_500).verdict, Verdict::Ok);
    assert_eq!(skew(2_001).what, "the database's clock is 2.0 s ahead of this machine's");
    assert_eq!(skew(-2_001).verdict, Verdict::Warn);
}

#[test]
fn a_store_that_is_not_there_yet_is_no_failure_and_is_not_made() {
    let folder = std::env::temp_dir().join(format!("tidegate-doctor-{}", std::process::id()));
    let url = format!("sqlite:{}", folder.join("deep/store.sqlite").display());
    assert_eq!(not_made_yet(&url).map(|check| check.verdict), Some(Verdict::Ok));
    assert!(!folder.exists());
    assert_eq!(not_made_yet("sqlite:/dev/null/store.sqlite").map(|check| check.verdict), Some(Verdict::Fail));
    assert_eq!(not_made_yet("postgres://h/d"), None);
    assert_eq!(not_made_yet("sqlite:relative.sqlite").map(|check| check.verdict), Some(Verdict::Ok));
}
