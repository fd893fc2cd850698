use super::*;
use crate::http::problem::Code;
use std::time::Instant;

fn refusal(body: impl AsRef<[u8]>) -> Problem {
    Fields::parse(body.as_ref()).expect_err("a refusal")
}

/// What is wrong with a body when `read` reads it.
fn wrong(body: &str, read: impl FnOnce(&mut Fields) -> bool) -> Vec<(String, &'static str)> {
    let mut fields = Fields::parse(body.as_bytes()).expect("an object");
    read(&mut fields);
    fields.reject_unknown();
    let errors = fields.finish().err().map(|problem| problem.errors).unwrap_or_default();
    errors.into_iter().map(|error| (error.pointer, error.code)).collect()
}

fn nested(levels: usize) -> String {
    // The object itself is a level.
    format!("{{\"args\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1))
}

#[test]
fn what_is_no_json_object_is_refused() {
    let utf16: Vec<u8> = "{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let rows: [(u32, &[u8], &str); 29] = [
        (45, b"", "the body is empty"),
        (46, b" \r\n\t ", "the body is empty"),
        (47, b"null", "not a single value"),
        (47, b"1", "not a single value"),
        (47, b"\"a\"", "not a single value"),
        (48, b"[]", "not an array"),
        (49, b"[\"a\",1]", "not an array"),
        (50, b"{} x", "line 1, column 4: the body goes on"),
        (50, b"{}{}", "line 1, column 3: the body goes on"),
        (51, b"\xef\xbb\xbf{}", "byte order mark"),
        (52, &utf16, "looks like UTF-16"),
        (52, b"\xff\xfe{\0}\0", "looks like UTF-16"),
        (59, b"{} // done", "goes on"),
        (59, b"{\"a\":1,}", "column 8: the JSON cannot be read"),
        (59, b"{'a':1}", "column 2: the JSON cannot be read"),
        (60, b"{\"a\":", "ends in the middle"),
        (60, b"{\"a\":\"b", "ends in the middle"),
        (81, b"{\n\"a\":\"\xff\"}", "line 2, column 6: the body is not UTF-8"),
        (82, b"{\"a\":\"\\ud800\"}", "the JSON cannot be read"),
        (82, b"{\"a\":\"\\udc00x\"}", "the JSON cannot be read"),
        (84, b"{\"a\":\"\x01\"}", "the JSON cannot be read"),
        (91, b"{\"a\":NaN}", "the JSON cannot be read"),
        (91, b"{\"a\":-Infinity}", "the JSON cannot be read"),
        (92, b"{\"a\":1e999}", "the JSON cannot be read"),
        (96, b"{\"a\":01}", "the JSON cannot be read"),
        (96, b"{\"a\":+1}", "the JSON cannot be read"),
        (0, b"hello", "the body is not JSON"),
        (0, b"{\"a\" 1}", "the JSON cannot be read"),
        (0, b"\0\0", "looks like UTF-16"),
    ];
    for (row, body, detail) in rows {
        let problem = refusal(body);
        assert_eq!(problem.code, Code::MalformedJson, "row {row}");
        assert!(problem.detail.contains(detail), "row {row}: {}", problem.detail);
    }
}

#[test]
fn what_a_parser_lets_through_is_refused_with_its_place() {
    for (row, body, code, pointer) in [
        (53, r#"{"a":1,"a":2}"#, "duplicate_key", "/a"),
        (54, r#"{"args":{"x":[0,{"y":1,"z":2,"y":3}]}}"#, "duplicate_key", "/args/x/1/y"),
        (54, r#"{"args":{"x":1,"\u0078":2}}"#, "duplicate_key", "/args/x"),
        (54, r#"{"a/b":{"~":1,"~":2}}"#, "duplicate_key", "/a~1b/~0"),
        (83, r#"{"args":{"x":"a\u0000b"}}"#, "nul_character", "/args/x"),
        (83, r#"{"args":{"\u0000":1}}"#, "nul_character", "/args"),
        (82, r#"{"args":["\ud800"]}"#, "syntax", "/args/0"),
        (60, r#"{"args":[1,"#, "cut_short", "/args/1"),
    ] {
        let problem = refusal(body);
        let error = problem.errors.first().expect("a place");
        assert_eq!((error.code, error.pointer.as_str()), (code, pointer), "row {row}: {body}");
        assert!(problem.detail.starts_with("line 1, column "), "{}", problem.detail);
    }
}

#[test]
fn row_61_and_62_nesting_is_read_to_127_levels() {
    for (levels, read) in [(2, true), (127, true), (128, false), (129, false), (100_000, false)] {
        let body = nested(levels);
        let problem = Fields::parse(body.as_bytes()).err();
        assert_eq!(problem.is_none(), read, "{levels}");
        if let Some(problem) = problem {
            assert_eq!(problem.errors[0].code, "too_deep");
        }
    }
}

#[test]
fn row_65_an_object_has_ten_thousand_keys_at_most() {
    for (count, read) in [(KEYS_MAX, true), (KEYS_MAX + 1, false), (100_000, false)] {
        let keys: Vec<String> = (0..count).map(|index| format!("\"k{index}\":0")).collect();
        let body = format!("{{\"args\":{{{}}}}}", keys.join(","));
        let problem = Fields::parse(body.as_bytes()).err();
        assert_eq!(problem.is_none(), read, "{count}");
        let flat = format!("{{{}}}", keys.join(","));
        assert_eq!(Fields::parse(flat.as_bytes()).is_ok(), read, "{count} at the top");
    }
}

#[test]
fn no_answer_has_the_words_of_the_parser() {
    for body in ["{\"a\":01}", "{\"a\":1,}", "{\"a\"", "{} x", "[]", "{\"a\":\"\\ud800\"}", "{\"a\":1e999}"] {
        let problem = refusal(body);
        let text = format!("{} {:?}", problem.detail, problem.errors);
        for word in ["expected", "EOF", "trailing char", "struct", "invalid type", "out of range", "surrogate"] {
            assert!(!text.contains(word), "{text}");
        }
    }
}

#[test]
fn good_fields_are_read_as_what_they_are() {
    let body = r#"{"task":"resize","n":-0,"at":"2030-01-31T12:00:00+01:00","wait":"PT90M","ttl":1.5,"on":true,
        "mode":"fast","tags":["a","b","a"],"args":{"big":123456789012345678901234567890,"z":1,"a":2},
        "none":null,"note":"caf\u00e9","limits":{"max":3}}"#;
    let mut fields = Fields::parse(body.as_bytes()).expect("an object");
    let hours = |hours: u64| Duration::ZERO..=Duration::from_secs(hours * 3_600);
    assert_eq!(fields.text("task", 1..=128, Charset::Name), "resize");
    assert_eq!(fields.integer("n", -5..=5), Some(0));
    assert_eq!(fields.timestamp("at").map(|at| at.to_string()).as_deref(), Some("2030-01-31T11:00:00.000Z"));
    assert_eq!(fields.seconds("wait", hours(24)), Some(Duration::from_secs(5_400)));
    assert_eq!(fields.seconds("ttl", hours(24)), Some(Duration::from_millis(1_500)));
    assert_eq!(fields.boolean("on"), Some(true));
    assert_eq!(fields.one_of("mode", &["slow", "fast"]), Some("fast"));
    assert_eq!(fields.tags("tags", 10, 128), Some(vec!["a".to_owned(), "b".to_owned()]));
    let args = fields.object("args", 1_000).expect("an object").get();
    assert_eq!(args, r#"{"big":123456789012345678901234567890,"z":1,"a":2}"#);
    assert_eq!(fields.optional_text("none", 1..=9, Charset::Line), None);
    assert_eq!((fields.has("none"), fields.is_null("none"), fields.has("nothing")), (true, true, false));
    assert_eq!(fields.raw("none", 10).map(RawValue::get), Some("null"));
    assert_eq!(fields.optional_text("note", 1..=9, Charset::Line).as_deref(), Some("café"));
    let mut limits = fields.section("limits").expect("a section");
    assert_eq!(limits.integer("max", 1..=5), Some(3));
    fields.absorb(limits);
    fields.reject_unknown();
    assert_eq!(fields.finish().map_err(|problem| problem.to_string()), Ok(()));
}

#[test]
fn every_kind_of_field_refuses_what_it_is_not() {
    type Read = fn(&mut Fields) -> bool;
    let text: Read = |fields| !fields.text("f", 1..=3, Charset::Name).is_empty();
    let number: Read = |fields| fields.integer("f", 0..=255).is_some();
    let at: Read = |fields| fields.timestamp("f").is_some();
    let tags: Read = |fields| fields.tags("f", 2, 3).is_some();
    let object: Read = |fields| fields.object("f", 10).is_some();
    let on: Read = |fields| fields.boolean("f").is_some();
    let mode: Read = |fields| fields.one_of("f", &["fast", "slow"]).is_some();
    let section: Read = |fields| fields.section("f").is_some();
    let span: Read = |fields| fields.seconds("f", Duration::from_secs(1)..=Duration::from_secs(3_600)).is_some();
    let rows: [(u32, &str, Read, &[&str]); 45] = [
        (57, "{}", text, &["/f required"]),
        (58, r#"{"f":null}"#, text, &["/f required"]),
        (58, r#"{"f":1}"#, text, &["/f type"]),
        (58, r#"{"f":["a"]}"#, text, &["/f type"]),
        (72, r#"{"f":""}"#, text, &["/f length"]),
        (72, r#"{"f":"abc"}"#, text, &[]),
        (72, r#"{"f":"abcd"}"#, text, &["/f length"]),
        (86, r#"{"f":"a\u200bb"}"#, text, &["/f charset"]),
        (88, r#"{"f":"а"}"#, text, &["/f charset"]),
        (94, r#"{"f":255}"#, number, &[]),
        (94, r#"{"f":256}"#, number, &["/f range"]),
        (94, r#"{"f":-1}"#, number, &["/f range"]),
        (95, r#"{"f":1.0}"#, number, &["/f type"]),
        (95, r#"{"f":1e0}"#, number, &["/f type"]),
        (95, r#"{"f":"1"}"#, number, &["/f type"]),
        (97, r#"{"f":9223372036854775808}"#, number, &["/f range"]),
        (97, r#"{"f":123456789012345678901234567890}"#, number, &["/f range"]),
        (93, r#"{"f":-0}"#, number, &[]),
        (101, r#"{"f":"0000-01-01T00:00:00Z"}"#, at, &["/f format"]),
        (101, r#"{"f":"2026-02-30T00:00:00Z"}"#, at, &["/f format"]),
        (102, r#"{"f":"2026-02-20T00:00:00"}"#, at, &["/f format"]),
        (102, r#"{"f":"2026-02-20T00:00:00+24:00"}"#, at, &["/f format"]),
        (101, r#"{"f":1700000000}"#, at, &["/f type"]),
        (73, r#"{"f":["a","b","c"]}"#, tags, &["/f too_many"]),
        (73, r#"{"f":["a",""]}"#, tags, &["/f/1 length"]),
        (73, r#"{"f":["abcd",1]}"#, tags, &["/f/0 length", "/f/1 type"]),
        (73, r#"{"f":"a"}"#, tags, &["/f type"]),
        (73, r#"{"f":["a","a"]}"#, tags, &[]),
        (74, r#"{"f":{"a":1234567890}}"#, object, &["/f too_large"]),
        (58, r#"{"f":[]}"#, object, &["/f type"]),
        (58, r#"{"f":"true"}"#, on, &["/f type"]),
        (58, r#"{"f":1}"#, on, &["/f type"]),
        (58, r#"{"f":"FAST"}"#, mode, &["/f choice"]),
        (58, r#"{"f":0}"#, mode, &["/f type"]),
        (58, r#"{"f":7}"#, section, &["/f type"]),
        (58, r#"{"f":null}"#, section, &[]),
        (100, r#"{"f":60}"#, span, &[]),
        (100, r#"{"f":0}"#, span, &["/f range"]),
        (100, r#"{"f":-1}"#, span, &["/f range"]),
        (100, r#"{"f":315360000}"#, span, &["/f range"]),
        (100, r#"{"f":"P10Y"}"#, span, &["/f format"]),
        (100, r#"{"f":1e3}"#, span, &["/f format"]),
        (100, r#"{"f":true}"#, span, &["/f type"]),
        (55, r#"{"F":"abc"}"#, text, &["/f required", "/F unknown_field"]),
        (55, r#"{"f":"a","g":1,"h":2}"#, text, &["/g unknown_field", "/h unknown_field"]),
    ];
    for (row, body, read, expected) in rows {
        let found: Vec<String> = wrong(body, read).into_iter().map(|(at, code)| format!("{at} {code}")).collect();
        assert_eq!(found, expected, "row {row}: {body}");
    }
}

#[test]
fn all_errors_are_told_at_once_under_the_gravest_code() {
    let code = |body: &str| {
        let mut fields = Fields::parse(body.as_bytes()).expect("an object");
        fields.text("task", 1..=9, Charset::Name);
        fields.integer("priority", 0..=9);
        fields.raw("payload", 4);
        fields.reject_unknown();
        fields.finish().expect_err("a refusal")
    };
    let problem = code(r#"{"priority":10,"payload":"too long","tsk":"a"}"#);
    assert_eq!((problem.code, problem.errors.len()), (Code::BodyTooLarge, 4));
    assert_eq!(problem.errors[3].detail, "\"tsk\" is not known here; did you mean `task`?");
    let problem = code(r#"{"task":"a","tsk":"a"}"#);
    assert_eq!(problem.code, Code::UnknownField);
    assert_eq!(problem.detail, "/tsk: \"tsk\" is not known here; did you mean `task`?");
    let problem = code(r#"{"priority":10,"tsk":"a"}"#);
    assert_eq!(problem.code, Code::InvalidField);
    assert_eq!(problem.detail, "/task: is required (and 2 more)");
}

#[test]
fn items_are_read_and_refused_one_by_one() {
    let body = r#"{"runs":[{"task":"a"},{"task":""},7]}"#;
    let mut fields = Fields::parse(body.as_bytes()).expect("an object");
    let verdicts: Vec<Option<String>> = fields
        .items("runs", 1..=1_000)
        .map(|mut item| {
            item.text("task", 1..=9, Charset::Name);
            item.reject_unknown();
            item.finish().err().map(|problem| problem.errors[0].pointer.clone())
        })
        .collect();
    assert_eq!(verdicts, [None, Some("/runs/1/task".to_owned()), Some("/runs/2".to_owned())]);
    for (row, body, code) in [
        (75, r#"{"runs":[]}"#, Code::InvalidField),
        (75, "{}", Code::InvalidField),
        (76, r#"{"runs":[{},{},{}]}"#, Code::TooManyItems),
        (58, r#"{"runs":{}}"#, Code::InvalidField),
    ] {
        let mut fields = Fields::parse(body.as_bytes()).expect("an object");
        assert!(fields.items("runs", 1..=2).next().is_none());
        assert_eq!(fields.finish().err().map(|problem| problem.code), Some(code), "row {row}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long reading takes is what is tested")]
fn row_66_many_keys_cost_no_more_each_than_few() {
    let read = |count: usize| {
        let keys: Vec<String> = (0..count).map(|index| format!("\"{:016x}\":0", index << 16)).collect();
        let body = format!("{{\"args\":{{{}}}}}", keys.join(","));
        let best = (0..5).map(|_| {
            let began = Instant::now();
            assert!(Fields::parse(body.as_bytes()).is_ok());
            began.elapsed()
        });
        best.min().unwrap_or_default().as_secs_f64() / count as f64
    };
    let (few, many) = (read(500), read(10_000));
    assert!(many < few * 10.0, "{few} {many}");
}
