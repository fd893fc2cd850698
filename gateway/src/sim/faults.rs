//! The fault switches: what may be made to go wrong, set for the process or for one account.
//!
//! One table defines the struct, the parser of `name=value` and the list of names, so that they cannot
//! drift apart. An unset switch of an account falls through to the process's.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SimError;

/// A probability, `0..=1`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(f64);

#[derive(Debug, thiserror::Error)]
#[error("a rate is a number from 0 to 1")]
pub struct NotARate;

impl TryFrom<f64> for Rate {
    type Error = NotARate;

    fn try_from(value: f64) -> Result<Rate, NotARate> {
        if (0.0..=1.0).contains(&value) { Ok(Rate(value)) } else { Err(NotARate) }
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> f64 {
        rate.0
    }
}

impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Rate, NotARate> {
        Rate::try_from(text.parse::<f64>().map_err(|_| NotARate)?)
    }
}

/// The probability of an optional switch; unset is never.
pub(super) fn rate(switch: Option<Rate>) -> f64 {
    switch.map_or(0.0, f64::from)
}

macro_rules! switches {
    ($($name:ident: $kind:ty = $doc:literal,)*) => {
        /// Which faults are switched on; the default is none.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Faults {
            $(#[doc = $doc] #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$kind>,)*
        }

        impl Faults {
            /// Every switch with what it does.
            pub const NAMES: &[(&str, &str)] = &[$((stringify!($name), $doc)),*];

            /// Sets one switch from `name=value`.
            pub fn set(&mut self, assignment: &str) -> Result<(), SimError> {
                let Some((name, value)) = assignment.split_once('=') else {
                    return Err(SimError::FaultSyntax { text: assignment.to_owned() });
                };
                let (name, value) = (name.trim(), value.trim());
                match name {
                    $(stringify!($name) => self.$name = Some(parse(stringify!($name), value)?),)*
                    _ => return Err(SimError::FaultName { name: name.to_owned() }),
                }
                Ok(())
            }

            /// These switches, and `base` where they say nothing.
            pub(super) fn over(&self, base: &Faults) -> Faults {
                Faults { $($name: self.$name.clone().or_else(|| base.$name.clone()),)* }
            }
        }
    };
}

switches! {
    lose_answers: u64 = "first k creates: accepted, then the connection closes without an answer",
    lose_answer_rate: Rate = "the same with a probability",
    error_after_accept: u64 = "first k creates: accepted, answered 500",
    error_after_accept_rate: Rate = "the same with a probability",
    accept_delay_ms: u64 = "how late a delayed create is accepted",
    delayed_accepts: u64 = "first k creates: the connection closes at once, accepted only later",
    hide_from_list_ms: u64 = "new batches are missing from list answers for this long",
    rate_limits: u64 = "first k creates: 429 with retry-after, not accepted",
    overloads: u64 = "first k creates: 529 or 503, not accepted",
    unavailable_rate: Rate = "any GET answers 503",
    lose_upload_answers: u64 = "first k uploads: stored, then the connection closes without an answer",
    item_error_rate: Rate = "items fail this time; another batch decides anew",
    item_error_always_rate: Rate = "items fail by their content, so that retries fail too",
    item_expire_rate: Rate = "items expire",
    expire_batches: u64 = "first k batches expire half done",
    missing_rate: Rate = "items are billed, but their line is not delivered",
    double_rate: Rate = "lines are delivered twice",
    unknown_rate: Rate = "extra lines carry a custom_id that was never sent",
    reorder: bool = "result lines are shuffled within windows",
    cut_downloads: u64 = "first k downloads: the connection is cut at a random place",
    cut_download_rate: Rate = "the same with a probability",
    late_failures: u64 = "first k batches: accepted, later failed with errors on lines 1 and 3",
    token_limit_failures: u64 = "first k OpenAI batches: accepted, later failed with token_limit_exceeded",
    queue_bytes: u64 = "OpenAI batches that make the input in flight larger than this are accepted, later failed with token_limit_exceeded",
    output_delay_ms: u64 = "completed, but output_file_id stays null for this long",
    cancel_ignored: bool = "a cancel is confirmed and cancels nothing",
    crlf: bool = "result lines end with \\r\\n",
    foreign_results_host: String = "Anthropic results_url names this host",
    reject_keys: bool = "every key is refused with 401",
    spend_limit: bool = "creates are refused with 429: the spend limit is reached",
    refuse_parameter: String = "requests that have this parameter are refused, live with 400 unsupported_parameter",
    lose_call_answers: u64 = "first k live calls: carried out, then the connection closes without an answer",
    busy_calls: u64 = "first k live calls: 429 with retry-after, not carried out",
    latency_ms: u64 = "from acceptance to the end of a batch, instead of the server's",
    stall_ms: u64 = "creates are answered this late, after they are accepted",
}

fn parse<T: FromStr>(name: &'static str, value: &str) -> Result<T, SimError> {
    value.parse().map_err(|_| SimError::FaultValue { name, value: value.to_owned() })
}

pub(super) fn known_names() -> String {
    let names: Vec<&str> = Faults::NAMES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_set_switches_of_every_kind() {
        let mut faults = Faults::default();
        for text in ["lose_answers=2", "missing_rate = 0.5", "crlf=true", "foreign_results_host=evil:1"] {
            faults.set(text).unwrap();
        }
        assert_eq!(faults.lose_answers, Some(2));
        assert_eq!(rate(faults.missing_rate), 0.5);
        assert_eq!(faults.crlf, Some(true));
        assert_eq!(faults.foreign_results_host.as_deref(), Some("evil:1"));
    }

    #[test]
    fn wrong_assignments_are_refused_and_unknown_names_list_the_known_ones() {
        let mut faults = Faults::default();
        assert!(faults.set("lose_answers").is_err());
        assert!(faults.set("lose_answers=-1").is_err());
        assert!(faults.set("missing_rate=1.5").is_err());
        let error = faults.set("lose_anwsers=1").unwrap_err().to_string();
        assert!(error.contains("lose_answers") && error.contains("stall_ms"), "{error}");
        assert_eq!(faults, Faults::default());
    }

    #[test]
    fn objects_with_unknown_or_impossible_switches_are_refused() {
        assert!(serde_json::from_str::<Faults>(r#"{"nope":1}"#).is_err());
        assert!(serde_json::from_str::<Faults>(r#"{"missing_rate":2}"#).is_err());
        let faults: Faults = serde_json::from_str(r#"{"rate_limits":3}"#).unwrap();
        assert_eq!(serde_json::to_string(&faults).unwrap(), r#"{"rate_limits":3}"#);
    }

    #[test]
    fn an_account_overrides_the_process_switch_by_switch() {
        let base = Faults { lose_answers: Some(1), crlf: Some(true), ..Faults::default() };
        let own = Faults { crlf: Some(false), ..Faults::default() };
        let both = own.over(&base);
        assert_eq!((both.lose_answers, both.crlf), (Some(1), Some(false)));
    }
}
