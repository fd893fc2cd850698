//! One line of a request file: its envelope, and the rules for it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::body::{BodyFacts, Shape, body_facts};
use super::error::shown;
use super::reader::Line;
use super::{Fault, Form};

/// The endpoints that OpenAI runs batches for.
const OPENAI_URLS: [&str; 8] = [
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
];
const ANTHROPIC_URL: &str = "/v1/messages";
const CUSTOM_ID_BYTES_MAX: usize = 512;
const MODEL_BYTES_MAX: usize = 256;

/// One request, borrowed from its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    pub line_no: u64,
    pub custom_id: Cow<'a, str>,
    /// `/v1/messages` in Anthropic form.
    pub url: &'static str,
    /// `body` or `params`, byte for byte.
    pub body: &'a str,
    pub model: Cow<'a, str>,
    /// The most tokens that one answer may have, under the name that this endpoint knows it by.
    pub max_tokens: Option<u64>,
    /// Answers asked for, at least one.
    pub choices: u64,
    /// The most tokens the prompt can have, or `None` where the body names content it does not hold.
    pub prompt_tokens_max: Option<u64>,
    /// Equal for requests with equal endpoint, model and parameters; a digest, so rarely for others too.
    pub shape: u32,
}

/// The form that the first line gave the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstForm {
    pub form: Form,
    line_no: u64,
}

pub(super) fn parse_line<'a>(line: Line<'a>, first: &mut Option<FirstForm>) -> Result<Request<'a>, Fault> {
    let (line_no, bytes) = match line {
        Line::Whole { number, bytes } => (number, bytes),
        Line::TooLong { max_line_bytes, .. } => return Err(Fault::TooLong { max_line_bytes }),
    };
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::NotUtf8 { byte: error.valid_up_to() + 1 })?;
    let envelope = Envelope::parse(text)?;
    let here = envelope.form(first)?;
    let first = *first.get_or_insert(FirstForm { form: here, line_no });
    if here != first.form {
        return Err(Fault::OtherForm { here, first: first.form, first_line: first.line_no });
    }
    let custom_id = custom_id(envelope.custom_id)?;
    let (key, url, raw_body) = match here {
        Form::OpenAi => {
            must_be_post(envelope.method)?;
            ("body", openai_url(envelope.url)?, envelope.body)
        }
        Form::Anthropic => ("params", ANTHROPIC_URL, envelope.params),
    };
    let body = raw_body.ok_or(Fault::Missing { key })?.get();
    let facts = body_facts(body, Shape { key, url })?;
    if here == Form::Anthropic && facts.max_tokens.is_none_or(|tokens| tokens == 0) {
        return Err(Fault::BadMaxTokens);
    }
    let BodyFacts { model, max_tokens, choices, prompt_tokens_max, parameters } = facts;
    let model = model_name(model, key)?;
    let shape = parameters.of(url, &model);
    Ok(Request { line_no, custom_id, url, body, model, max_tokens, choices, prompt_tokens_max, shape })
}

#[derive(Default)]
struct Envelope<'a> {
    custom_id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    url: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str) -> Result<Envelope<'a>, Fault> {
        let mut fault = None;
        let mut json = serde_json::Deserializer::from_str(text);
        let envelope = EnvelopeSeed { fault: &mut fault }.deserialize(&mut json).map_err(|error| why(&error))?;
        json.end().map_err(|error| Fault::MoreThanOne { byte: error.column() })?;
        match fault {
            Some(fault) => Err(fault),
            None => Ok(envelope),
        }
    }

    /// By the keys of this line alone, or as line one had it when they do not tell.
    fn form(&self, first: &Option<FirstForm>) -> Result<Form, Fault> {
        let openai_keys = [("body", self.body), ("method", self.method), ("url", self.url)];
        let openai_key = openai_keys.into_iter().find(|(_, raw)| raw.is_some());
        match (openai_key, self.params) {
            (Some((key, _)), Some(_)) => Err(Fault::BothForms { key }),
            (Some(_), None) => Ok(Form::OpenAi),
            (None, Some(_)) => Ok(Form::Anthropic),
            (None, None) => first.map(|first| first.form).ok_or(Fault::NoForm),
        }
    }
}

/// Collects a fault instead of failing, so that a broken line is called broken and not merely odd.
struct EnvelopeSeed<'f> {
    fault: &'f mut Option<Fault>,
}

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_> {
    type Value = Envelope<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // A derived struct would take an array too, position by position.
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_> {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(key) = map.next_key_seed(EnvelopeKey)? {
            let (name, slot) = match key {
                Key::CustomId => ("custom_id", &mut envelope.custom_id),
                Key::Method => ("method", &mut envelope.method),
                Key::Url => ("url", &mut envelope.url),
                Key::Body => ("body", &mut envelope.body),
                Key::Params => ("params", &mut envelope.params),
                Key::Unknown(key) => {
                    map.next_value::<IgnoredAny>()?;
                    self.fault.get_or_insert(Fault::UnknownKey { key });
                    continue;
                }
            };
            if slot.is_some() {
                self.fault.get_or_insert(Fault::DoubledKey { key: name });
            }
            *slot = Some(map.next_value()?);
        }
        Ok(envelope)
    }
}

enum Key {
    CustomId,
    Method,
    Url,
    Body,
    Params,
    Unknown(String),
}

/// Reads keys as bytes: one may hold a lone surrogate, which is unknown rather than broken.
struct EnvelopeKey;

impl<'de> DeserializeSeed<'de> for EnvelopeKey {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for EnvelopeKey {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Key, E> {
        Ok(match key {
            b"custom_id" => Key::CustomId,
            b"method" => Key::Method,
            b"url" => Key::Url,
            b"body" => Key::Body,
            b"params" => Key::Params,
            other => Key::Unknown(shown(&String::from_utf8_lossy(other))),
        })
    }
}

fn why(error: &serde_json::Error) -> Fault {
    match error.classify() {
        Category::Eof => Fault::CutShort,
        Category::Data => Fault::NotAnObject,
        Category::Syntax | Category::Io => Fault::NotJson { byte: error.column() },
    }
}

/// The text of a string, borrowed where it has no escapes. `Ok(None)` for anything but a string; an error for
/// one that no database can hold as text: a lone surrogate, or the character U+0000.
pub(super) fn text<'a>(raw: &'a RawValue, key: &'static str) -> Result<Option<Cow<'a, str>>, Fault> {
    let Some(inner) = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Ok(None);
    };
    if !inner.contains('\\') {
        return Ok(Some(Cow::Borrowed(inner)));
    }
    match serde_json::from_str::<String>(raw.get()) {
        Ok(text) if !text.contains('\0') => Ok(Some(Cow::Owned(text))),
        Ok(_) | Err(_) => Err(Fault::UnstorableText { key }),
    }
}

fn custom_id(raw: Option<&RawValue>) -> Result<Cow<'_, str>, Fault> {
    let id = text(raw.ok_or(Fault::Missing { key: "custom_id" })?, "custom_id")?.ok_or(Fault::IdNotText)?;
    match id.len() {
        0 => Err(Fault::IdEmpty),
        1..=CUSTOM_ID_BYTES_MAX => Ok(id),
        _ => Err(Fault::IdTooLong { max: CUSTOM_ID_BYTES_MAX }),
    }
}

fn must_be_post(raw: Option<&RawValue>) -> Result<(), Fault> {
    let method = text(raw.ok_or(Fault::Missing { key: "method" })?, "method")?;
    if method.as_deref() == Some("POST") { Ok(()) } else { Err(Fault::NotPost) }
}

fn openai_url(raw: Option<&RawValue>) -> Result<&'static str, Fault> {
    let raw = raw.ok_or(Fault::Missing { key: "url" })?;
    let url = text(raw, "url")?.unwrap_or(Cow::Borrowed(raw.get()));
    let known = OPENAI_URLS.into_iter().find(|known| *known == url);
    known.ok_or_else(|| Fault::UnknownUrl { url: shown(&url) })
}

fn model_name<'a>(raw: Option<&'a RawValue>, key: &'static str) -> Result<Cow<'a, str>, Fault> {
    let name = raw.map(|raw| text(raw, "model")).transpose()?.flatten().unwrap_or_default();
    match name.len() {
        0 => Err(Fault::BadModel { key }),
        1..=MODEL_BYTES_MAX => Ok(name),
        _ => Err(Fault::ModelTooLong { key, max: MODEL_BYTES_MAX }),
    }
}
