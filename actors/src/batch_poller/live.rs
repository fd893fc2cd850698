//! Carries a batch out by calling its requests one by one, and lets a canary speak for its kind.
//!
//! A live call cannot be looked up. It is marked before it leaves, and one that is left without an answer counts as
//! an attempt that may have been paid for: its bound is booked as spent, so that the spend cap still holds.

use super::collect::Line;
use super::drive::{CallOrStore, Drive, Step};
use super::plan::{Refusal, refusal};
use super::submit::own_verdict;
use super::whose::Whose;
use crate::metrics::LIVE_CALLS;
use crate::provider::request::{has_shape, url_of_pack};
use crate::provider::result_line::live_line;
use crate::provider::{Answer, CallError};
use futures_util::future::join_all;
use std::time::Duration;
use storage::failpoint::{Failpoint, reached};
use storage::model::{BatchState, Mode, Money, RequestState};
use storage::store::{BatchRow, CanaryState, Fence, LiveRequest, Verdict};
use tracing::{info, warn};

/// Live calls of one batch that are under way at once.
const AT_ONCE: i64 = 16;
/// A kind of request is refused when so many different requests of it were: one may be refused for what it says.
pub(crate) const CANARIES: i64 = 2;
/// How long nothing is called after the provider asked for less, if it does not say how long.
const BREATH: Duration = Duration::from_secs(5);
const DOUBT: &str = "the answer to this call was lost; it may have been carried out and paid for";

/// What a live call came to, before its answer is read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// An answer about this request.
    Answered,
    /// Not carried out, for no fault of the request.
    NotNow { after: Duration },
    /// Not carried out, and the account's owner has to act.
    Account { kind: &'static str },
    /// Nobody knows whether it was carried out.
    Lost,
}

/// Reads the status of an answer, or its lack.
fn told(answer: &Result<Answer, CallError>) -> Told {
    match answer {
        Err(error) if error.was_never_sent() => Told::NotNow { after: BREATH },
        Err(_) => Told::Lost,
        Ok(answer) => match answer.status {
            401 | 403 => Told::Account { kind: "account" },
            status if refusal(Some(status), answer.code().as_deref()) == Refusal::Billing => {
                Told::Account { kind: "billing" }
            }
            429 | 503 | 529 => Told::NotNow { after: answer.retry_after.unwrap_or(BREATH) },
            _ => Told::Answered,
        },
    }
}

/// What one answered request says about all of its kind; `None` when another one should be asked. `refused_before`
/// of its kind were refused already. Only a refusal that names the request, in the provider's own words, counts: a
/// server that does not know the route says nothing about a batch.
fn speaks(status: u16, verdict: &Verdict, refused_before: i64, requests: i64) -> Option<CanaryState> {
    let named = verdict.code.as_deref().filter(|code| !code.starts_with("http_"));
    match (verdict.state, status, named) {
        (RequestState::Succeeded | RequestState::Refused, ..) => Some(CanaryState::Passed),
        (RequestState::Errored, 400 | 422, Some(code)) | (RequestState::Errored, 404, Some(code))
            if status != 404 || matches!(code, "model_not_found" | "not_found_error") =>
        {
            let enough = refused_before + 1 >= CANARIES.min(requests);
            let message = format!("requests of this kind were refused when called live: {code}");
            enough.then(|| CanaryState::Refused { code: code.to_owned(), message })
        }
        _ => Some(CanaryState::Unclear),
    }
}

/// What a batch would have called the request: its answer is read like a line of results.
fn wire_id(row: &BatchRow, request: &LiveRequest) -> String {
    format!("{}-{}", row.create_key(), request.pos)
}

impl Drive {
    pub(super) async fn go_live(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        self.parts.store.go_live(fence, self.parts.store.now()).await?;
        info!(batch.id = %row.id, requests = row.requests, mode = row.mode.word(), "calling live");
        Ok(Step::Taken)
    }

    /// Calls what is not called yet, some at once, and settles each by its own answer.
    pub(super) async fn call_live(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        let store = &self.parts.store;
        let in_doubt = self.settle_doubts(row, fence).await?;
        let mut refused = row.errored;
        let at_once = if row.mode == Mode::Canary { 1 } else { AT_ONCE };
        // A canary that died has had its try.
        let mut goes_on = !(in_doubt && row.mode == Mode::Canary);
        while goes_on {
            let requests = store.uncalled(fence, at_once).await?;
            if requests.is_empty() {
                break;
            }
            let positions: Vec<i64> = requests.iter().map(|request| request.pos).collect();
            store.calling(fence, row.state, &positions).await?;
            let answers = join_all(requests.iter().map(|request| self.call(row, request))).await;
            reached(Failpoint::LiveAnswered);
            goes_on = self.read_answers(row, fence, &requests, &answers, &mut refused).await?;
        }
        store.ended(fence, row.state, "called", (None, None), store.now()).await?;
        reached(Failpoint::LiveEnded);
        Ok(Step::Taken)
    }

    async fn call(&self, row: &BatchRow, request: &LiveRequest) -> Result<Answer, CallError> {
        let url = url_of_pack(&row.pack);
        let answer = self.provider.call(url, &wire_id(row, request), &request.body).await;
        let outcome = match told(&answer) {
            Told::Answered => "answered",
            Told::NotNow { .. } | Told::Account { .. } => "declined",
            Told::Lost => "lost",
        };
        metrics::counter!(LIVE_CALLS, "outcome" => outcome).increment(1);
        answer
    }

    /// Settles a group of calls. `false` when the rest is not to be called live now.
    async fn read_answers(
        &self,
        row: &BatchRow,
        fence: &Fence,
        requests: &[LiveRequest],
        answers: &[Result<Answer, CallError>],
        refused: &mut i64,
    ) -> Result<bool, CallOrStore> {
        let store = &self.parts.store;
        let (mut verdicts, mut go_on, mut said) = (Vec::with_capacity(requests.len()), true, None);
        for (request, answer) in requests.iter().zip(answers) {
            let verdict = match (told(answer), answer) {
                (Told::Answered, Ok(answer)) => {
                    let verdict = self.read_answer(row, request, answer);
                    said = speaks(answer.status, &verdict, *refused, row.requests);
                    *refused += i64::from(verdict.state == RequestState::Errored);
                    verdict
                }
                (Told::Lost | Told::Answered, _) => {
                    said = Some(CanaryState::Unclear);
                    self.doubtful(row, request)
                }
                (told @ (Told::NotNow { .. } | Told::Account { .. }), answer) => {
                    said = Some(CanaryState::Unclear);
                    go_on = false;
                    let why = self.why_not_now(row, &told, answer).await?;
                    own_verdict(self.form(), request.pos, RequestState::Canceled, "not_called", &why)
                }
            };
            verdicts.push(verdict);
        }
        if let (Mode::Canary, Some(said)) = (row.mode, &said) {
            // Before the verdict, which is what would make a second try of the kind possible.
            store.canary_said(&row.id, said, store.now()).await?;
            info!(batch.id = %row.id, pack = row.pack, ?said, "the canary has spoken");
            go_on = false;
        }
        self.settle(row, fence, row.state, &mut verdicts).await?;
        Ok(go_on)
    }

    /// A provider that wants less, or nothing, holds the job; the canary's own try is over without consequence.
    async fn why_not_now(
        &self,
        row: &BatchRow,
        told: &Told,
        answer: &Result<Answer, CallError>,
    ) -> Result<String, CallOrStore> {
        let store = &self.parts.store;
        let why = match answer {
            Ok(answer) => format!("the provider answered {} to a live call", answer.status),
            Err(error) => error.to_string(),
        };
        warn!(batch.id = %row.id, why, "live calls are left for later");
        match told {
            _ if row.mode == Mode::Canary => {}
            Told::Account { kind } => self.suspend(row, &format!("{kind}|{why}")).await?,
            Told::NotNow { after } => store.hold_job(&row.job, store.now() + *after, None).await?,
            Told::Answered | Told::Lost => {}
        }
        Ok(why)
    }

    fn read_answer(&self, row: &BatchRow, request: &LiveRequest, answer: &Answer) -> Verdict {
        let line = live_line(self.form(), &wire_id(row, request), answer);
        match self.read_line(row, &Whose::ByKey, line.as_bytes()) {
            Ok(Line::Ours(mut verdict, _)) => {
                // A server's own trouble during a try is no fault of the request, which has its batch before it.
                let servers_fault = verdict.state == RequestState::Errored && answer.status >= 500;
                if row.mode == Mode::Canary && servers_fault {
                    verdict.state = RequestState::Canceled;
                }
                *verdict
            }
            Ok(Line::Foreign) | Err(_) => {
                let message = "the provider's answer cannot be read";
                own_verdict(self.form(), request.pos, RequestState::Errored, "bad_answer", message)
            }
        }
    }

    /// Calls whose answers died with a process: they count, and their bound is booked. Tells whether there were any.
    async fn settle_doubts(&self, row: &BatchRow, fence: &Fence) -> Result<bool, CallOrStore> {
        let store = &self.parts.store;
        let mut any = false;
        loop {
            let doubts = store.in_doubt(fence, AT_ONCE).await?;
            if doubts.is_empty() {
                return Ok(any);
            }
            any = true;
            warn!(batch.id = %row.id, calls = doubts.len(), "live calls were left without an answer");
            if row.mode == Mode::Canary {
                store.canary_said(&row.id, &CanaryState::Unclear, store.now()).await?;
            }
            let mut verdicts = doubts.iter().map(|request| self.doubtful(row, request)).collect();
            self.settle(row, fence, row.state, &mut verdicts).await?;
        }
    }

    fn doubtful(&self, row: &BatchRow, request: &LiveRequest) -> Verdict {
        let verdict = own_verdict(self.form(), request.pos, RequestState::Missing, "answer_lost", DOUBT);
        let cost = request.reserve_nanos.map(|nanos| row.mode.price(Money::from_nanos(nanos)));
        Verdict { cost, ..verdict }
    }

    /// Everything was called that is to be called now; the rest goes back to the queue.
    pub(super) async fn close_live(&self, row: &BatchRow, fence: &Fence) -> Result<Step, CallOrStore> {
        let message = "this request was not called live";
        let judge = |_| (RequestState::Canceled, "not_called".to_owned(), message.to_owned());
        self.settle_open(row, fence, BatchState::Ended, judge).await?;
        self.parts.store.collected(fence, self.parts.store.now()).await?;
        Ok(Step::Taken)
    }

    /// Gives a batch up whose kind of request the provider was found to refuse, before anything of it is sent.
    pub(super) async fn give_up_refused(&self, row: &BatchRow, fence: &Fence) -> Result<Option<Step>, CallOrStore> {
        if !has_shape(&row.pack) {
            return Ok(None);
        }
        let store = &self.parts.store;
        let Some(canary) = store.canary(&row.account, &row.pack).await? else { return Ok(None) };
        let CanaryState::Refused { code, message } = canary.state else { return Ok(None) };
        let asked_for = store.job(&row.job).await?.is_some_and(|job| job.ceilings.live.canary);
        if !asked_for || canary.tried_at + super::CANARY_HOLDS < store.now() {
            return Ok(None);
        }
        warn!(batch.id = %row.id, code, "the batch is not sent: its kind of request is refused");
        self.give_up(row, fence, RequestState::Errored, &code, &message).await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::result_line::Form;

    fn answer(status: u16) -> Result<Answer, CallError> {
        Ok(Answer { status, retry_after: None, body: Vec::new() })
    }

    #[test]
    fn only_what_cannot_have_been_sent_is_called_not_sent() {
        let host = || "api.example.com".to_owned();
        let refused = CallError::Connect { host: host(), source: std::io::Error::other("refused") };
        assert_eq!(told(&Err(refused)), Told::NotNow { after: BREATH });
        let late = CallError::Timeout { host: host(), within: BREATH };
        assert_eq!(told(&Err(late)), Told::Lost);
        assert_eq!(told(&Err(CallError::BadAnswer { host: host(), expected: "x" })), Told::Lost);
    }

    #[test]
    fn an_account_is_asked_to_act_and_a_busy_provider_is_left_alone() {
        assert_eq!(told(&answer(401)), Told::Account { kind: "account" });
        assert_eq!(told(&answer(402)), Told::Account { kind: "billing" });
        let asks = Answer { status: 429, retry_after: Some(Duration::from_secs(9)), body: Vec::new() };
        assert_eq!(told(&Ok(asks)), Told::NotNow { after: Duration::from_secs(9) });
        for status in [200, 400, 404, 500, 502] {
            assert_eq!(told(&answer(status)), Told::Answered, "{status}");
        }
    }

    #[test]
    fn a_kind_is_refused_by_two_named_refusals_and_by_nothing_less() {
        let verdict = |state, code: &str| own_verdict(Form::OpenAi, 0, state, code, "m");
        let refusal = verdict(RequestState::Errored, "unsupported_value");
        assert_eq!(speaks(400, &refusal, 0, 2), None);
        assert!(matches!(speaks(400, &refusal, 1, 2), Some(CanaryState::Refused { .. })));
        assert!(matches!(speaks(400, &refusal, 0, 1), Some(CanaryState::Refused { .. })));
        let model = verdict(RequestState::Errored, "model_not_found");
        assert!(matches!(speaks(404, &model, 1, 2), Some(CanaryState::Refused { .. })));
        let route = verdict(RequestState::Errored, "invalid_request_error");
        assert_eq!(speaks(404, &route, 1, 2), Some(CanaryState::Unclear));
        let unnamed = verdict(RequestState::Errored, "http_400");
        assert_eq!(speaks(400, &unnamed, 1, 2), Some(CanaryState::Unclear));
        let servers = verdict(RequestState::Errored, "server_error");
        assert_eq!(speaks(500, &servers, 1, 2), Some(CanaryState::Unclear));
        let done = verdict(RequestState::Succeeded, "x");
        assert_eq!(speaks(200, &done, 1, 2), Some(CanaryState::Passed));
    }
}
