//! Reads the body of an Anthropic create request by request, checks the envelope, and writes one line
//! per request; never more than one request is in memory.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::ids;
use super::lines::Stored;
use super::spool::Spool;

const MOST_REQUESTS: usize = 100_000;

/// Why a create is not accepted.
#[derive(Debug)]
pub(super) enum Refusal {
    Invalid(String),
    TooMany,
    Unwritten(io::Error),
}

#[derive(Deserialize)]
struct Request {
    custom_id: Option<Value>,
    params: Option<Box<RawValue>>,
}

/// Copies the requests of `body` into `out`, one a line.
pub(super) fn copy(body: impl Read, out: &mut Spool) -> Result<(), Refusal> {
    let mut copy = Copy { out, seen: HashSet::new(), found: false, refusal: None };
    let mut json = serde_json::Deserializer::from_reader(body);
    let read = json.deserialize_map(Envelope(&mut copy)).and_then(|()| json.end());
    if let Some(refusal) = copy.refusal {
        return Err(refusal);
    }
    if let Err(error) = read {
        return Err(Refusal::Invalid(format!("The request body is not valid JSON: {error}")));
    }
    if !copy.found {
        return Err(Refusal::Invalid("requests: Field required".to_owned()));
    }
    if copy.seen.is_empty() {
        return Err(Refusal::Invalid("requests: List should have at least 1 item".to_owned()));
    }
    Ok(())
}

struct Copy<'a> {
    out: &'a mut Spool,
    seen: HashSet<String>,
    found: bool,
    /// Set before reading is broken off with an error that only serde sees.
    refusal: Option<Refusal>,
}

impl Copy<'_> {
    fn take(&mut self, request: Request) -> Result<(), Refusal> {
        let index = self.seen.len();
        if index >= MOST_REQUESTS {
            return Err(Refusal::TooMany);
        }
        let at = |what: &str| Refusal::Invalid(format!("requests.{index}.{what}"));
        let custom_id = match request.custom_id {
            Some(Value::String(custom_id)) => custom_id,
            Some(_) => return Err(at("custom_id: Input should be a valid string")),
            None => return Err(at("custom_id: Field required")),
        };
        if let Some(problem) = custom_id_problem(&custom_id) {
            return Err(at(&format!("custom_id: {problem}")));
        }
        let params = request.params.ok_or_else(|| at("params: Field required"))?;
        if !params.get().starts_with('{') {
            return Err(at("params: Input should be a valid dictionary"));
        }
        if self.seen.contains(&custom_id) {
            return Err(at(&format!("custom_id: {custom_id:?} is not unique in the batch")));
        }
        self.write(&custom_id, &params).map_err(Refusal::Unwritten)?;
        self.seen.insert(custom_id);
        Ok(())
    }

    fn write(&mut self, custom_id: &str, params: &RawValue) -> io::Result<()> {
        let sha = ids::hex(&ids::sha(params.get().as_bytes()));
        let one_line;
        let mut params = params;
        if params.get().contains(['\n', '\r']) {
            // Outside of strings a line break is only whitespace, and inside it cannot stand.
            one_line = RawValue::from_string(params.get().replace(['\n', '\r'], " "))?;
            params = &one_line;
        }
        let mut line = serde_json::to_vec(&Stored { custom_id: custom_id.to_owned(), sha, params })?;
        line.push(b'\n');
        self.out.write(&line)
    }
}

fn custom_id_problem(custom_id: &str) -> Option<&'static str> {
    if custom_id.is_empty() {
        return Some("String should have at least 1 character");
    }
    if custom_id.chars().count() > 64 {
        return Some("String should have at most 64 characters");
    }
    let fine = custom_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    (!fine).then_some("String should match pattern '^[a-zA-Z0-9_-]{1,64}$'")
}

/// The outer object.
struct Envelope<'a, 'b>(&'a mut Copy<'b>);

impl<'de> Visitor<'de> for Envelope<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with requests")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key != "requests" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if std::mem::replace(&mut self.0.found, true) {
                return Err(de::Error::duplicate_field("requests"));
            }
            map.next_value_seed(Requests(self.0))?;
        }
        Ok(())
    }
}

/// The list in it.
struct Requests<'a, 'b>(&'a mut Copy<'b>);

impl<'de> DeserializeSeed<'de> for Requests<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Requests<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(request) = list.next_element::<Request>()? {
            if let Err(refusal) = self.0.take(request) {
                self.0.refusal = Some(refusal);
                return Err(de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(body: &str) -> Result<String, String> {
        let path = std::env::temp_dir().join(ids::mint("envelope-"));
        let mut out = Spool::create(path.clone()).unwrap();
        copy(body.as_bytes(), &mut out).map_err(|refusal| format!("{refusal:?}"))?;
        out.flush().unwrap();
        Ok(std::fs::read_to_string(path).unwrap())
    }

    #[test]
    fn requests_become_lines_and_keep_the_digest_of_what_was_sent() {
        let params = "{\"a\" :\n 1,\"b\":\"\\n\"}";
        let lines = scan(&format!(r#"{{"x":[1],"requests":[{{"custom_id":"a-1","params":{params}}}]}}"#));
        let sha = ids::hex(&ids::sha(params.as_bytes()));
        let line = format!("{{\"custom_id\":\"a-1\",\"sha\":\"{sha}\",\"params\":{{\"a\" :  1,\"b\":\"\\n\"}}}}\n");
        assert_eq!(lines.unwrap(), line);
    }

    #[test]
    fn a_truncated_body_is_refused_wherever_it_ends() {
        let whole = r#"{"requests":[{"custom_id":"a","params":{}},{"custom_id":"b","params":{}}]}"#;
        assert!(scan(whole).is_ok());
        for end in 0..whole.len() {
            assert!(scan(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        assert!(scan(&format!("{whole}x")).is_err());
    }

    #[test]
    fn envelopes_are_checked_at_once() {
        let one = |custom_id: &str| scan(&format!(r#"{{"requests":[{{"custom_id":"{custom_id}","params":{{}}}}]}}"#));
        assert!(one(&"x".repeat(64)).is_ok());
        let long = one(&"x".repeat(65)).unwrap_err();
        assert!(long.contains("requests.0.custom_id: String should have at most 64 characters"), "{long}");
        assert!(one("a.b").is_err() && one("").is_err());
        assert!(scan(r#"{"requests":[]}"#).unwrap_err().contains("at least 1"));
        assert!(scan("{}").unwrap_err().contains("Field required"));
        assert!(scan(r#"{"requests":[{"custom_id":"a","params":[]}]}"#).unwrap_err().contains("dictionary"));
        let twice = r#"{"requests":[{"custom_id":"a","params":{}},{"custom_id":"a","params":{}}]}"#;
        assert!(scan(twice).unwrap_err().contains("requests.1.custom_id"));
    }
}
