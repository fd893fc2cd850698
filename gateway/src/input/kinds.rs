//! Kinds of requests: those of one file that have the same endpoint, model and parameters.

use std::collections::{HashMap, HashSet};

use super::Request;

/// A kind has a pack of its own from this many requests on: then it is worth asking a provider about.
const OWN_PACK_FROM: u64 = 1_000;
/// Shapes that are counted; a file with more has no kinds worth the name.
const SHAPES_MAX: usize = 65_536;

/// The kinds of a file that are large enough for a pack of their own. The same for the same file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kinds(HashSet<u32>);

impl Kinds {
    /// The request's shape, if its kind has a pack of its own.
    pub fn own_pack(&self, request: &Request<'_>) -> Option<u32> {
        self.0.contains(&request.shape).then_some(request.shape)
    }
}

/// Counts while a file is scanned.
#[derive(Debug, Default)]
pub(super) struct Counting(HashMap<u32, u64>);

impl Counting {
    pub fn count(&mut self, request: &Request<'_>) {
        if self.0.len() < SHAPES_MAX {
            *self.0.entry(request.shape).or_default() += 1;
        } else if let Some(count) = self.0.get_mut(&request.shape) {
            *count += 1;
        }
    }

    pub fn finish(self) -> Kinds {
        Kinds(self.0.into_iter().filter(|(_, count)| *count >= OWN_PACK_FROM).map(|(shape, _)| shape).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, requests, scan};
    use std::fmt::Write as _;

    fn shape(body: &str) -> u32 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.jsonl");
        let line = format!(r#"{{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{body}}}"#);
        std::fs::write(&path, line).unwrap();
        requests(&path, &Limits::default()).unwrap().next_request().unwrap().unwrap().shape
    }

    #[test]
    fn a_shape_is_in_the_parameters_and_not_in_what_is_said() {
        let plain = shape(r#"{"model":"m","temperature":1,"messages":[{"role":"user","content":"a"}]}"#);
        let same = [
            r#"{"messages":[{"role":"user","content":"quite another text"}],"temperature":1,"model":"m"}"#,
            r#"{"model":"m","temperature":1,"messages":[]}"#,
        ];
        for body in same {
            assert_eq!(shape(body), plain, "{body}");
        }
        let others = [
            r#"{"model":"n","temperature":1,"messages":[]}"#,
            r#"{"model":"m","temperature":0.5,"messages":[]}"#,
            r#"{"model":"m","messages":[]}"#,
            r#"{"model":"m","temperature":1,"messages":[],"max_tokens":5}"#,
        ];
        for body in others {
            assert_ne!(shape(body), plain, "{body}");
        }
        let seeded = |seed: u32| shape(&format!(r#"{{"model":"m","seed":{seed}}}"#));
        assert_eq!(seeded(1), seeded(2));
    }

    #[test]
    fn only_a_kind_of_a_thousand_has_a_pack_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("many.jsonl");
        let mut text = String::new();
        for line in 0..1_001 {
            let key = if line < 1_000 { "top_p" } else { "temperature" };
            writeln!(
                text,
                r#"{{"custom_id":"{line}","method":"POST","url":"/v1/responses","body":{{"model":"m","{key}":1}}}}"#
            )
            .unwrap();
        }
        std::fs::write(&path, text).unwrap();
        let kinds = scan(&path, &Limits::default()).unwrap().kinds;
        let mut lines = requests(&path, &Limits::default()).unwrap();
        let mut own = Vec::new();
        while let Some(request) = lines.next_request().unwrap() {
            own.push(kinds.own_pack(&request).is_some());
        }
        assert_eq!(own.iter().filter(|own| **own).count(), 1_000);
        assert!(!own[1_000]);
    }
}
