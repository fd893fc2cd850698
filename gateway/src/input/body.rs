//! What a request's body says about its price, read in one light pass and one look at its strings.
//!
//! The body is JSON already, as its envelope has been parsed. It is never built and never written again.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Fault;

/// Levels of nesting in a line; what readers of JSON commonly stop at. The body is one below its envelope.
const LEVELS_MAX: usize = 127;

/// A vendor's own instructions that a request with tools gets put in front of it, generously.
const TOOL_PROMPT_TOKENS: u64 = 3_000;

/// Keys whose value decides about the price.
const READ: [&str; 9] =
    ["model", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of", "stream", "tools", "prompt"];

/// Keys that bring in content, or a price, that the body does not show.
const BEYOND: [&str; 10] = [
    "previous_response_id",
    "conversation",
    "container",
    "mcp_servers",
    "web_search_options",
    "context_management",
    "inference_geo",
    "speed",
    "audio",
    "image",
];

/// Values of a `type` that stand for content or work that bytes do not bound.
const BEYOND_TYPES: [&str; 14] = [
    "image",
    "image_url",
    "input_image",
    "input_audio",
    "file",
    "input_file",
    "document",
    "container_upload",
    "item_reference",
    "file_search",
    "code_interpreter",
    "image_generation",
    "mcp",
    "local_shell",
];
/// The same for names that carry a date or a variant at their end.
const BEYOND_TYPE_PREFIXES: [&str; 4] = ["web_search", "web_fetch", "code_execution", "computer"];

/// Where a body stands: the key it is under, and the endpoint it is for.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub key: &'static str,
    pub url: &'static str,
}

pub(super) struct BodyFacts<'a> {
    pub model: Option<&'a RawValue>,
    pub max_tokens: Option<u64>,
    pub choices: u64,
    pub prompt_tokens_max: Option<u64>,
    pub parameters: Parameters,
}

/// A digest of a body's parameters, whatever their order: all keys, and the values that set something. What is said
/// to the model, and what differs from request to request by its nature, is known by its key alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parameters(u64);

/// Keys whose values are content, or a name for this one request.
const CONTENT: [&str; 12] = [
    "messages",
    "input",
    "prompt",
    "system",
    "instructions",
    "model",
    "seed",
    "user",
    "metadata",
    "suffix",
    "safety_identifier",
    "prompt_cache_key",
];
/// A longer value is content under a name that is not known here.
const SETTING_BYTES_MAX: usize = 64;

impl Parameters {
    fn add(&mut self, key: &BodyKey, value: &RawValue) {
        let value = if key.is_content || value.get().len() > SETTING_BYTES_MAX { "" } else { value.get() };
        // A sum, so that the order of the keys does not matter.
        self.0 = self.0.wrapping_add(fnv(key.digest, value.as_bytes()));
    }

    pub(super) fn of(self, url: &str, model: &str) -> u32 {
        let whole = fnv(fnv(self.0 ^ FNV_START, url.as_bytes()), model.as_bytes());
        (whole ^ (whole >> 32)) as u32
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: stable over releases, since it names packs in a store.
fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

pub(super) fn body_facts<'a>(body: &'a str, shape: Shape) -> Result<BodyFacts<'a>, Fault> {
    if !body.starts_with('{') {
        return Err(Fault::BodyNotAnObject { key: shape.key });
    }
    let look = look_through(body.as_bytes());
    if look.levels >= LEVELS_MAX {
        return Err(Fault::TooDeep { levels: LEVELS_MAX });
    }
    let mut json = serde_json::Deserializer::from_str(body);
    // The envelope's parse has accepted these bytes, so that only an object's place could be missed here.
    let fields = BodySeed.deserialize(&mut json).map_err(|_| Fault::BodyNotAnObject { key: shape.key })?;
    if let Some(key) = fields.doubled {
        return Err(Fault::DoubledInBody { within: shape.key, key });
    }
    let [model, max_tokens, max_completion, max_output, n, best_of, stream, tools, prompt] = fields.read;
    if stream.is_some_and(|raw| raw.get() == "true") {
        return Err(Fault::Streams { key: shape.key });
    }
    let max_tokens = match shape.url {
        "/v1/responses" => max_output.and_then(count),
        // Two names for one thing; a server that takes both may go by either.
        "/v1/chat/completions" => max_tokens.and_then(count).max(max_completion.and_then(count)),
        _ => max_tokens.and_then(count),
    };
    // A list of prompts has answers for each, a stored prompt has text of its own: neither shows in the bytes.
    let plain_prompt = prompt.is_none_or(|raw| raw.get().starts_with('"'));
    let countable = [n, best_of].into_iter().flatten().all(|raw| count(raw).is_some());
    let bounded = !fields.beyond && !look.beyond && plain_prompt && countable;
    let allowance = if tools.is_some() { TOOL_PROMPT_TOKENS } else { 0 };
    Ok(BodyFacts {
        model,
        max_tokens,
        choices: n.and_then(count).max(best_of.and_then(count)).unwrap_or(1).max(1),
        prompt_tokens_max: bounded.then_some(body.len() as u64 + allowance),
        parameters: fields.parameters,
    })
}

/// An unsigned integer; anything else is left for the provider to refuse.
fn count(raw: &RawValue) -> Option<u64> {
    raw.get().parse().ok()
}

struct Fields<'a> {
    read: [Option<&'a RawValue>; READ.len()],
    beyond: bool,
    doubled: Option<&'static str>,
    parameters: Parameters,
}

struct BodySeed;

impl<'de> DeserializeSeed<'de> for BodySeed {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodySeed {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields =
            Fields { read: [None; READ.len()], beyond: false, doubled: None, parameters: Parameters::default() };
        let mut seen = [false; READ.len()];
        while let Some(key) = map.next_key_seed(BodyKeySeed)? {
            let raw: &'de RawValue = map.next_value()?;
            fields.parameters.add(&key, raw);
            match key.role {
                Role::Read(at) => {
                    if std::mem::replace(&mut seen[at], true) {
                        fields.doubled.get_or_insert(READ[at]);
                    }
                    fields.read[at] = Some(raw).filter(|raw| raw.get() != "null");
                }
                Role::Beyond => fields.beyond |= raw.get() != "null",
                Role::Other => {}
            }
        }
        Ok(fields)
    }
}

struct BodyKey {
    role: Role,
    is_content: bool,
    digest: u64,
}

enum Role {
    Read(usize),
    Beyond,
    Other,
}

/// Reads keys as bytes, since a body may have one that is no valid text.
struct BodyKeySeed;

impl<'de> DeserializeSeed<'de> for BodyKeySeed {
    type Value = BodyKey;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<BodyKey, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for BodyKeySeed {
    type Value = BodyKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<BodyKey, E> {
        let is_among = |names: &[&str]| names.iter().any(|name| name.as_bytes() == key);
        let role = match READ.iter().position(|name| name.as_bytes() == key) {
            Some(at) => Role::Read(at),
            None if is_among(&BEYOND) => Role::Beyond,
            None => Role::Other,
        };
        Ok(BodyKey { role, is_content: is_among(&CONTENT), digest: fnv(fnv(FNV_START, key), b"\0") })
    }
}

struct Look {
    levels: usize,
    beyond: bool,
}

/// Counts the levels of nesting, and looks for `"type": "…"` of a kind that bytes do not bound.
fn look_through(json: &[u8]) -> Look {
    let mut look = Look { levels: 0, beyond: false };
    let (mut level, mut at, mut after_type) = (0_usize, 0, false);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at + 1);
                let string = &json[at + 1..end];
                look.beyond |= after_type && is_beyond(string);
                after_type = string == b"type";
                at = end;
            }
            b'{' | b'[' => {
                level += 1;
                look.levels = look.levels.max(level);
                after_type = false;
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                after_type = false;
            }
            b',' => after_type = false,
            _ => {}
        }
        at += 1;
    }
    look
}

/// Index of the quote that ends the string whose inside starts at `at`.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while at < json.len() {
        match json[at] {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

fn is_beyond(kind: &[u8]) -> bool {
    BEYOND_TYPES.iter().any(|known| known.as_bytes() == kind)
        || BEYOND_TYPE_PREFIXES.iter().any(|prefix| kind.starts_with(prefix.as_bytes()))
}
