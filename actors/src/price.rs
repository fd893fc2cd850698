//! What a run costs, and what it can cost at most.
//!
//! Owns: the price table in the binary and the arithmetic over it. Everything is integer pico-dollars until the
//! one rounding at the end, which goes up. Never: guesses. A model without a price is `None`, not free.

pub(crate) mod fields;
mod table;
mod usage;

pub use table::{PriceError, PriceTable};
pub use usage::Usage;

use serde::{Deserialize, Serialize};
use storage::model::{Mode, Money};

/// A prompt rarely has more than one token per four bytes of its JSON.
const BYTES_PER_TOKEN_EXPECTED: u64 = 4;

/// Where the batch price of a model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchPrice {
    /// Somebody states it: the vendor's list, or the operator in an override file.
    #[default]
    Listed,
    /// Half of the vendor's list price, since no batch price is stated.
    Half,
}

/// The batch rates of one model in pico-dollars per token; the shape of one entry of `ops/prices.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    #[serde(default)]
    pub batch: BatchPrice,
    pub input: u64,
    /// Costs what `input` does where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<u64>,
    /// Costs what `input` does where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    /// Costs what `cache_write` does where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<u64>,
    /// Zero for models that write nothing, such as embeddings. Not optional: an override that forgets it would
    /// give the dearest part away.
    pub output: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongRates>,
    /// Per call of the vendor's web search, at list price: batches give no discount on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_search: Option<u64>,
    /// Multiplies the token price, in thousandths, of an answer that was computed in the US on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub us_permille: Option<u64>,
}

/// The rates that replace the ordinary ones, for the whole run, once its prompt has more than `above` tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongRates {
    pub above: u64,
    pub input: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
}

/// One row of rates with every gap filled.
#[derive(Debug, Clone, Copy)]
struct Row {
    input: u64,
    cached_input: u64,
    cache_write: u64,
    cache_write_1h: u64,
    output: u64,
}

impl Rates {
    /// What the run cost: every kind of token at its rate, plus tool calls, rounded up once.
    pub fn cost(&self, usage: &Usage) -> Money {
        let row = match &self.long {
            Some(long) if usage.prompt_tokens() > long.above => self.long_row(long),
            Some(_) | None => self.row(),
        };
        let tokens = [
            (usage.input, row.input),
            (usage.cached_input, row.cached_input),
            (usage.cache_write_5m, row.cache_write),
            (usage.cache_write_1h, row.cache_write_1h),
            (usage.output, row.output),
        ];
        let picos = tokens.iter().fold(0_i128, |sum, (count, rate)| sum.saturating_add(times(*count, *rate)));
        let searches = times(usage.web_searches, self.web_search.unwrap_or(0));
        Money::from_picos_up(self.in_its_region(picos, usage).saturating_add(searches))
    }

    /// What the run cost if it was carried out in this mode. Only tokens are dearer live: tool calls have one price.
    pub fn cost_in(&self, mode: Mode, usage: &Usage) -> Money {
        let tools = self.cost(&Usage { web_searches: usage.web_searches, ..Usage::default() });
        mode.price(self.cost(usage) - tools) + tools
    }

    /// More than a request can cost, or `None` where nothing bounds its output.
    ///
    /// `body_bytes` must bound the prompt's tokens: true of the UTF-8 length of a body whose whole prompt is text
    /// in it (a token is at least one byte), false of images, files and stored conversations it merely names.
    /// Each of these tokens is charged at the dearest input rate, since any of them may be a cache write.
    pub fn upper_bound(&self, body_bytes: u64, max_tokens: Option<u64>, choices: u64) -> Option<Money> {
        let mut row = self.row();
        if let Some(long) = self.long.as_ref().filter(|long| body_bytes > long.above) {
            row = row.dearest_of(self.long_row(long));
        }
        let output_tokens = match row.output {
            0 => 0,
            _ => max_tokens.or(self.max_output_tokens)?.saturating_mul(choices.max(1)),
        };
        let picos = times(body_bytes, row.dearest_input()).saturating_add(times(output_tokens, row.output));
        Some(Money::from_picos_up(picos))
    }

    /// A cheap day: a quarter of a token per byte, nothing cached, and an answer too short to count.
    pub fn low_estimate(&self, body_bytes: u64) -> Money {
        let tokens = body_bytes / BYTES_PER_TOKEN_EXPECTED;
        self.cost(&Usage { input: tokens, ..Usage::default() })
    }

    fn row(&self) -> Row {
        let cache_write = self.cache_write.unwrap_or(self.input);
        Row {
            input: self.input,
            cached_input: self.cached_input.unwrap_or(self.input),
            cache_write,
            cache_write_1h: self.cache_write_1h.unwrap_or(cache_write),
            output: self.output,
        }
    }

    fn long_row(&self, long: &LongRates) -> Row {
        let cache_write = long.cache_write.unwrap_or(long.input);
        Row {
            input: long.input,
            cached_input: long.cached_input.unwrap_or(long.input),
            cache_write,
            cache_write_1h: long.cache_write_1h.unwrap_or(cache_write),
            output: long.output.unwrap_or(self.output),
        }
    }

    fn in_its_region(&self, picos: i128, usage: &Usage) -> i128 {
        match self.us_permille {
            Some(permille) if usage.us_only => {
                let thousandths = picos.saturating_mul(i128::from(permille));
                thousandths.div_euclid(1_000) + i128::from(thousandths.rem_euclid(1_000) > 0)
            }
            Some(_) | None => picos,
        }
    }
}

impl Row {
    fn dearest_of(self, other: Row) -> Row {
        Row {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            output: self.output.max(other.output),
        }
    }

    fn dearest_input(self) -> u64 {
        self.input.max(self.cached_input).max(self.cache_write).max(self.cache_write_1h)
    }
}

/// Saturates: a count from a provider is not to be trusted with an overflow.
fn times(count: u64, rate: u64) -> i128 {
    i128::from(count).saturating_mul(i128::from(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates {
            batch: BatchPrice::Listed,
            input: 1_000_000,
            cached_input: Some(100_000),
            cache_write: Some(1_250_000),
            cache_write_1h: Some(2_000_000),
            output: 5_000_000,
            max_output_tokens: Some(1_000),
            long: Some(LongRates {
                above: 200,
                input: 2_000_000,
                cached_input: None,
                cache_write: None,
                cache_write_1h: None,
                output: Some(7_000_000),
            }),
            web_search: Some(10_000_000_000),
            us_permille: Some(1_100),
        }
    }

    #[test]
    fn every_kind_of_token_has_its_own_rate() {
        let usage = Usage {
            input: 100,
            cached_input: 10,
            cache_write_5m: 20,
            cache_write_1h: 5,
            output: 50,
            ..Usage::default()
        };
        let nanos = 100 * 1_000 + 10 * 100 + 20 * 1_250 + 5 * 2_000 + 50 * 5_000;
        assert_eq!(rates().cost(&usage), Money::from_nanos(nanos));
    }

    #[test]
    fn a_prompt_above_the_threshold_is_charged_whole_at_the_long_rates() {
        let at = Usage { input: 150, cached_input: 50, output: 1, ..Usage::default() };
        assert_eq!(rates().cost(&at), Money::from_nanos(150 * 1_000 + 50 * 100 + 5_000));
        let above = Usage { cached_input: 51, ..at };
        assert_eq!(rates().cost(&above), Money::from_nanos(150 * 2_000 + 51 * 2_000 + 7_000));
    }

    #[test]
    fn tool_calls_are_neither_discounted_nor_multiplied() {
        let usage = Usage { input: 10, web_searches: 2, us_only: true, ..Usage::default() };
        assert_eq!(rates().cost(&usage), Money::from_nanos(10 * 1_100 + 2 * 10_000_000));
    }

    #[test]
    fn live_tokens_cost_twice_and_live_tool_calls_do_not() {
        let usage = Usage { input: 10, web_searches: 2, ..Usage::default() };
        assert_eq!(rates().cost_in(Mode::Batch, &usage), rates().cost(&usage));
        assert_eq!(rates().cost_in(Mode::Live, &usage), Money::from_nanos(2 * 10 * 1_000 + 2 * 10_000_000));
    }

    #[test]
    fn a_run_is_rounded_up_once_and_not_per_token() {
        let cheap = Rates { input: 1, cached_input: None, long: None, us_permille: None, ..rates() };
        assert_eq!(cheap.cost(&Usage { input: 1, ..Usage::default() }), Money::from_nanos(1));
        assert_eq!(cheap.cost(&Usage { input: 1_001, cached_input: 999, ..Usage::default() }), Money::from_nanos(2));
        assert_eq!(cheap.cost(&Usage::default()), Money::ZERO);
    }

    #[test]
    fn an_absurd_count_saturates() {
        let usage = Usage { input: u64::MAX, output: u64::MAX, us_only: true, ..Usage::default() };
        assert_eq!(rates().cost(&usage), Money::MAX);
        assert_eq!(rates().upper_bound(u64::MAX, Some(u64::MAX), u64::MAX), Some(Money::MAX));
    }

    #[test]
    fn the_bound_takes_the_dearest_input_rate_and_every_choice() {
        let nanos = 100 * 2_000 + 3 * 10 * 5_000;
        assert_eq!(rates().upper_bound(100, Some(10), 3), Some(Money::from_nanos(nanos)));
        assert_eq!(rates().upper_bound(100, Some(10), 0), rates().upper_bound(100, Some(10), 1));
    }

    #[test]
    fn the_bound_without_max_tokens_is_what_the_model_can_write_or_unknown() {
        assert_eq!(rates().upper_bound(1, None, 1), Some(Money::from_nanos(2_000 + 1_000 * 5_000)));
        let unknown = Rates { max_output_tokens: None, ..rates() };
        assert_eq!(unknown.upper_bound(1, None, 1), None);
        assert!(unknown.upper_bound(1, Some(5), 1).is_some());
        let embedding = Rates { output: 0, max_output_tokens: None, long: None, ..rates() };
        assert_eq!(embedding.upper_bound(10, None, 1), Some(Money::from_nanos(10 * 2_000)));
    }

    #[test]
    fn no_usage_within_its_limits_costs_more_than_the_bound() {
        for body_bytes in [0_u64, 1, 199, 200, 201, 5_000] {
            for (cached_input, cache_write_1h) in [(0, 0), (body_bytes / 2, 0), (0, body_bytes), (1, body_bytes / 3)] {
                let input = body_bytes.saturating_sub(cached_input + cache_write_1h);
                let within = input + cached_input + cache_write_1h <= body_bytes;
                let usage = Usage { input, cached_input, cache_write_1h, output: 20, ..Usage::default() };
                let bound = rates().upper_bound(body_bytes, Some(10), 2);
                assert!(!within || Some(rates().cost(&usage)) <= bound, "{body_bytes} {usage:?}");
            }
        }
    }

    #[test]
    fn the_low_estimate_never_exceeds_the_bound() {
        assert_eq!(rates().low_estimate(400), Money::from_nanos(100 * 1_000));
        for body_bytes in [0, 1, 799, 800, 801, 804, 100_000] {
            assert!(Some(rates().low_estimate(body_bytes)) <= rates().upper_bound(body_bytes, Some(1), 1));
        }
    }
}
