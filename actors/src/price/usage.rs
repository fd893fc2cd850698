//! How many tokens of which kind a provider says a run used.

use serde_json::value::RawValue;

use super::fields::{count, pick, pick_lenient, text};

/// Tokens by the rate they are charged at. `input` is what neither came from nor went into a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub input: u64,
    pub cached_input: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    /// Reasoning included.
    pub output: u64,
    /// Calls of the vendor's own web search.
    pub web_searches: u64,
    /// The answer says that it was computed in the US on request, which some models charge for.
    pub us_only: bool,
}

impl Usage {
    /// Reads the `usage` of the body of a chat, response, completion, embedding or image answer. `None` when it
    /// names no prompt tokens: then the cost is unknown, not zero.
    pub fn from_openai(body: &str) -> Option<Usage> {
        let [usage] = pick(body, ["usage"]).ok()?;
        Usage::from_openai_usage(usage?)
    }

    /// Reads the `usage` of an Anthropic message. `None` when it names no input tokens.
    pub fn from_anthropic(message: &str) -> Option<Usage> {
        let [usage] = pick(message, ["usage"]).ok()?;
        Usage::from_anthropic_usage(usage?)
    }

    /// Both dialects count cache hits and writes into the prompt; chat says `prompt_tokens`, the rest `input_tokens`.
    pub(crate) fn from_openai_usage(usage: &RawValue) -> Option<Usage> {
        let names = [
            "prompt_tokens",
            "prompt_tokens_details",
            "completion_tokens",
            "input_tokens",
            "input_tokens_details",
            "output_tokens",
        ];
        let [prompt, prompt_details, completion, input, input_details, output] = pick(usage.get(), names).ok()?;
        let whole_prompt = prompt.or(input).and_then(count)?;
        let details = prompt_details.or(input_details);
        let [cached, written] = pick_lenient(details, ["cached_tokens", "cache_write_tokens"]).map(or_zero);
        let cached_input = cached.min(whole_prompt);
        let cache_write_5m = written.min(whole_prompt - cached_input);
        Some(Usage {
            input: whole_prompt - cached_input - cache_write_5m,
            cached_input,
            cache_write_5m,
            output: or_zero(completion.or(output)),
            ..Usage::default()
        })
    }

    /// Here the caches are counted beside `input_tokens`. A write whose duration is not told is a short one.
    pub(crate) fn from_anthropic_usage(usage: &RawValue) -> Option<Usage> {
        let names = [
            "input_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "cache_creation",
            "output_tokens",
            "server_tool_use",
            "inference_geo",
        ];
        let [input, read, written, split, output, tools, geo] = pick(usage.get(), names).ok()?;
        let durations = ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"];
        let [short, long] = pick_lenient(split, durations).map(or_zero);
        let untold = or_zero(written).saturating_sub(short.saturating_add(long));
        let [searches] = pick_lenient(tools, ["web_search_requests"]).map(or_zero);
        Some(Usage {
            input: input.and_then(count)?,
            cached_input: or_zero(read),
            cache_write_5m: short.saturating_add(untold),
            cache_write_1h: long,
            output: or_zero(output),
            web_searches: searches,
            us_only: geo.and_then(text).is_some_and(|geo| geo == "us"),
        })
    }

    /// All tokens of the prompt, which decide about long-context rates.
    pub fn prompt_tokens(&self) -> u64 {
        let caches = self.cached_input.saturating_add(self.cache_write_5m).saturating_add(self.cache_write_1h);
        self.input.saturating_add(caches)
    }
}

fn or_zero(raw: Option<&RawValue>) -> u64 {
    raw.and_then(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_counts_the_cache_into_the_prompt() {
        let chat = r#"{"id":"x","usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,
            "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":0,"cache_write_tokens":10},
            "completion_tokens_details":{"reasoning_tokens":5}}}"#;
        let responses = r#"{"usage":{"input_tokens":100,"output_tokens":7,
            "input_tokens_details":{"cached_tokens":60,"cache_write_tokens":10}}}"#;
        let expected = Usage { input: 30, cached_input: 60, cache_write_5m: 10, output: 7, ..Usage::default() };
        assert_eq!(Usage::from_openai(chat), Some(expected));
        assert_eq!(Usage::from_openai(responses), Some(expected));
    }

    #[test]
    fn openai_usage_is_read_leniently() {
        let cases = [
            (r#"{"usage":{"prompt_tokens":8,"total_tokens":8}}"#, Some((8, 0, 0))),
            (r#"{"usage":{"prompt_tokens":8,"prompt_tokens_details":null,"completion_tokens":null}}"#, Some((8, 0, 0))),
            (r#"{"usage":{"prompt_tokens":8,"prompt_tokens_details":{"cached_tokens":99}}}"#, Some((0, 8, 0))),
            (r#"{"usage":{"prompt_tokens":8,"prompt_tokens_details":[1],"completion_tokens":2}}"#, Some((8, 0, 2))),
            (r#"{"usage":null}"#, None),
            (r#"{"usage":{"completion_tokens":2}}"#, None),
            (r#"{"usage":{"prompt_tokens":-8}}"#, None),
            (r#"{"usage":"8"}"#, None),
            ("{}", None),
            ("[]", None),
            ("", None),
        ];
        for (body, expected) in cases {
            let found = Usage::from_openai(body).map(|usage| (usage.input, usage.cached_input, usage.output));
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn anthropic_counts_the_caches_beside_the_input() {
        let message = r#"{"type":"message","usage":{"input_tokens":5,"cache_read_input_tokens":60,
            "cache_creation_input_tokens":33,"cache_creation":{"ephemeral_5m_input_tokens":20,
            "ephemeral_1h_input_tokens":10},"output_tokens":7,"server_tool_use":{"web_search_requests":2},
            "service_tier":"batch","inference_geo":"us"}}"#;
        let expected = Usage {
            input: 5,
            cached_input: 60,
            cache_write_5m: 23,
            cache_write_1h: 10,
            output: 7,
            web_searches: 2,
            us_only: true,
        };
        assert_eq!(Usage::from_anthropic(message), Some(expected));
        assert_eq!(expected.prompt_tokens(), 98);
    }

    #[test]
    fn anthropic_usage_is_read_leniently() {
        let message = r#"{"usage":{"input_tokens":5,"cache_read_input_tokens":null,"cache_creation":null,
            "cache_creation_input_tokens":4,"inference_geo":"not_available","server_tool_use":null}}"#;
        let expected = Usage { input: 5, cache_write_5m: 4, ..Usage::default() };
        assert_eq!(Usage::from_anthropic(message), Some(expected));
        assert_eq!(Usage::from_anthropic(r#"{"usage":{"output_tokens":5}}"#), None);
    }
}
