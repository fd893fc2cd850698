use std::borrow::Cow;

use super::*;

const CHAT: &str = "/v1/chat/completions";

fn judge(content: &[u8]) -> Result<Scan, InputError> {
    judge_within(content, Limits::default())
}

fn judge_within(content: &[u8], limits: Limits) -> Result<Scan, InputError> {
    scan_lines(Lines::new(content, limits.max_line_bytes), Path::new("in.jsonl"))
}

/// The faults by line, as the user reads them.
fn faults(content: &[u8]) -> Vec<(u64, String)> {
    match judge(content) {
        Err(InputError::BadLines { problems, .. }) => {
            problems.shown().iter().map(|(line_no, fault)| (*line_no, fault.to_string())).collect()
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn only_fault(line: &str) -> String {
    faults(line.as_bytes()).into_iter().next().map(|(_, fault)| fault).unwrap_or_default()
}

fn openai(id: &str, body: &str) -> String {
    format!(r#"{{"custom_id":"{id}","method":"POST","url":"{CHAT}","body":{body}}}"#)
}

fn chat(id: &str) -> String {
    openai(id, r#"{"model":"gpt-4o-mini","messages":[],"max_tokens":7}"#)
}

fn anthropic(id: &str, params: &str) -> String {
    format!(r#"{{"custom_id":"{id}","params":{params}}}"#)
}

fn message(id: &str) -> String {
    anthropic(id, r#"{"model":"claude-haiku-4-5","max_tokens":5,"messages":[]}"#)
}

fn all_requests(content: &[u8], see: &mut dyn FnMut(Request<'_>)) -> ContentHash {
    let lines = Lines::new(content, Limits::default().max_line_bytes);
    let mut requests = Requests { path: PathBuf::from("in.jsonl"), lines, form: None };
    while let Some(request) = requests.next_request().unwrap() {
        see(request);
    }
    requests.finish().unwrap()
}

/// The single request of a file with this line.
fn facts(line: &str) -> (Option<u64>, u64, Option<u64>) {
    let mut found = None;
    all_requests(line.as_bytes(), &mut |request| {
        found = Some((request.max_tokens, request.choices, request.prompt_tokens_max));
    });
    found.unwrap()
}

#[test]
fn both_forms_are_told_apart_by_their_lines() {
    let scan = judge(format!("{}\n{}\n", chat("a"), chat("b")).as_bytes()).unwrap();
    let pack = Pack { url: CHAT, model: "gpt-4o-mini".to_owned(), count: 2 };
    assert_eq!((scan.form, scan.count, scan.packs), (Form::OpenAi, 2, vec![pack]));
    let scan = judge(message("a").as_bytes()).unwrap();
    let pack = Pack { url: "/v1/messages", model: "claude-haiku-4-5".to_owned(), count: 1 };
    assert_eq!((scan.form, scan.count, scan.packs), (Form::Anthropic, 1, vec![pack]));
}

#[test]
fn requests_are_counted_by_url_and_model() {
    let embed = r#"{"custom_id":"c","method":"POST","url":"/v1/embeddings","body":{"model":"e","input":"x"}}"#;
    let file = [chat("a"), embed.to_owned(), openai("b", r#"{"model":"o3"}"#), chat("d")].join("\n");
    let packs = judge(file.as_bytes()).unwrap().packs;
    let found: Vec<_> = packs.iter().map(|pack| (pack.url, pack.model.as_str(), pack.count)).collect();
    assert_eq!(found, [(CHAT, "gpt-4o-mini", 2), (CHAT, "o3", 1), ("/v1/embeddings", "e", 1)]);
}

#[test]
fn line_ends_marks_and_blank_lines_change_nothing_but_the_numbers() {
    let files = [
        format!("{}\n{}", chat("a"), chat("b")),
        format!("\u{feff}{}\r\n{}\r\n", chat("a"), chat("b")),
        format!("\n  \n{}\n\t\r\n\n {} \n\n", chat("a"), chat("b")),
        format!("\u{feff}\n{}\n{}\r", chat("a"), chat("b")),
    ];
    for file in files {
        let mut seen = Vec::new();
        all_requests(file.as_bytes(), &mut |request| seen.push(request.custom_id.into_owned()));
        assert_eq!(seen, ["a", "b"], "{file:?}");
        assert_eq!(judge(file.as_bytes()).unwrap().count, 2, "{file:?}");
    }
    let bad = format!("\n\n{}\n \nx\n", chat("a"));
    assert_eq!(faults(bad.as_bytes()), [(5, "not JSON (byte 1)".to_owned())]);
}

#[test]
fn only_a_newline_ends_a_line() {
    let body = "{\"model\":\"m\",\"x\":\"\u{2028}\u{2029}\u{85}\"}";
    assert_eq!(judge(openai("a", body).as_bytes()).unwrap().count, 1);
}

#[test]
fn a_body_is_handed_out_byte_for_byte() {
    let body = r#"{ "z" : 1e999, "model":"m","a":"\ud800 \u0000 \/ é","a":123456789012345678901234567890, "n":1 }"#;
    let mut bodies = Vec::new();
    all_requests(openai("a", body).as_bytes(), &mut |request| bodies.push(request.body.to_owned()));
    assert_eq!(bodies, [body]);
}

#[test]
fn what_is_no_single_object_is_refused() {
    let cases = [
        ("x", "not JSON (byte 1)"),
        ("null", "not a JSON object"),
        ("7", "not a JSON object"),
        (r#"["a","POST"]"#, "not a JSON object"),
        ("{'a':1}", "not JSON (byte 2)"),
        (r#"{"custom_id":"a",}"#, "not JSON (byte 18)"),
        (r#"{"custom_id":NaN}"#, "not JSON (byte 14)"),
        (r#"{"custom_id":"a""#, "ends in the middle of its JSON"),
        (r#"{"custom_id":"a"}{"custom_id":"b"}"#, "goes on after its JSON object (byte 18)"),
        (r#"{"custom_id":"a"} x"#, "goes on after its JSON object (byte 19)"),
        ("{\"custom_id\":\"a\u{1}\"}", "not JSON (byte 15)"),
        ("{}", "has neither `body` (OpenAI form) nor `params` (Anthropic form)"),
    ];
    for (line, fault) in cases {
        assert_eq!(only_fault(line), fault, "{line}");
    }
    assert_eq!(faults(b"{\"custom_id\":\"\xff\"}"), [(1, "not valid UTF-8 (byte 15)".to_owned())]);
    assert_eq!(faults(b"\xff\xfe{\0"), [(1, "not valid UTF-8 (byte 1)".to_owned())]);
    assert_eq!(faults(b"{\0\"\0"), [(1, "not JSON (byte 2)".to_owned())]);
    let second_mark = format!("{}\n\u{feff}{}", chat("a"), chat("b"));
    assert_eq!(faults(second_mark.as_bytes()), [(2, "not JSON (byte 1)".to_owned())]);
}

#[test]
fn keys_that_are_doubled_unknown_or_missing_are_named() {
    let cases = [
        (r#"{"custom_id":"a","custom_id":"a","params":{}}"#, "has `custom_id` twice"),
        (r#"{"custom_id":"a","Params":{}}"#, "has the unknown key \"Params\""),
        (r#"{"custom_id":"a","\ud800\n":{}}"#, "has the unknown key \"���\\n\""),
        (r#"{"custom_id":"a","body":{},"params":{}}"#, "has both `params` (Anthropic form) and `body` (OpenAI form)"),
        (r#"{"method":"POST","url":"/v1/embeddings","body":{"model":"m"}}"#, "has no `custom_id`"),
        (r#"{"custom_id":"a","url":"/v1/embeddings","body":{"model":"m"}}"#, "has no `method`"),
        (r#"{"custom_id":"a","method":"POST","body":{"model":"m"}}"#, "has no `url`"),
        (r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings"}"#, "has no `body`"),
    ];
    for (line, fault) in cases {
        assert_eq!(only_fault(line), fault, "{line}");
    }
}

#[test]
fn a_custom_id_is_a_text_of_bounded_length() {
    let id = |raw: &str| format!(r#"{{"custom_id":{raw},"params":{{"model":"m","max_tokens":1}}}}"#);
    let cases = [
        (id("7"), "`custom_id` must be a string"),
        (id("null"), "`custom_id` must be a string"),
        (id("\"\""), "`custom_id` must not be empty"),
        (id(&format!("\"{}\"", "x".repeat(513))), "`custom_id` is longer than 512 bytes"),
        (id(&format!("\"{}\"", "é".repeat(257))), "`custom_id` is longer than 512 bytes"),
        (id(r#""\ud800""#), "`custom_id` holds a character that cannot be stored"),
        (id(r#""a\u0000""#), "`custom_id` holds a character that cannot be stored"),
    ];
    for (line, fault) in cases {
        assert_eq!(only_fault(&line), fault, "{line}");
    }
    for good in [format!("\"{}\"", "x".repeat(512)), r#""a b/ü \"\u00e9\" 🦀""#.to_owned()] {
        assert_eq!(judge(id(&good).as_bytes()).unwrap().count, 1, "{good}");
    }
}

#[test]
fn a_doubled_id_names_the_line_that_had_it_first() {
    let file = [chat("a"), chat("b"), chat("a"), chat("\\u0061"), chat("c")].join("\n");
    let fault = "custom_id \"a\" is already on line 1".to_owned();
    assert_eq!(faults(file.as_bytes()), [(3, fault.clone()), (4, fault)]);
}

#[test]
fn the_first_line_decides_about_the_form() {
    let file = ["x".to_owned(), chat("a"), message("b"), chat("c")].join("\n");
    let fault = "in Anthropic form, but line 2 made this a file in OpenAI form".to_owned();
    assert_eq!(faults(file.as_bytes()), [(1, "not JSON (byte 1)".to_owned()), (3, fault)]);
}

#[test]
fn an_openai_line_posts_to_a_batch_endpoint() {
    let line = |method: &str, url: &str| {
        format!(r#"{{"custom_id":"a","method":{method},"url":{url},"body":{{"model":"m"}}}}"#)
    };
    for method in ["\"post\"", "\"GET\"", "7", "[]"] {
        assert_eq!(only_fault(&line(method, "\"/v1/responses\"")), "`method` must be \"POST\"", "{method}");
    }
    for url in ["\"/v1/chat\"", "\"https://api.openai.com/v1/responses\"", "\"/v1/responses/\"", "null", "\"\""] {
        let fault = only_fault(&line("\"POST\"", url));
        assert!(fault.starts_with("`url` must be a batch endpoint"), "{url}: {fault}");
    }
    assert_eq!(judge(line("\"POST\"", r#""\/v1\/responses""#).as_bytes()).unwrap().packs[0].url, "/v1/responses");
}

#[test]
fn a_body_is_an_object_with_a_model_and_no_stream() {
    let cases = [
        ("[]", "`body` must be an object"),
        ("null", "`body` must be an object"),
        ("\"{}\"", "`body` must be an object"),
        ("{}", "`body.model` must be a non-empty string"),
        (r#"{"model":""}"#, "`body.model` must be a non-empty string"),
        (r#"{"model":null}"#, "`body.model` must be a non-empty string"),
        (r#"{"model":["m"]}"#, "`body.model` must be a non-empty string"),
        (r#"{"model":"m","stream":true}"#, "`body.stream` must not be true in a batch"),
        (r#"{"model":"m","model":"n"}"#, "has `model` twice in its `body`"),
        (r#"{"model":"m","n":null,"n":100}"#, "has `n` twice in its `body`"),
    ];
    for (body, fault) in cases {
        assert_eq!(only_fault(&openai("a", body)), fault, "{body}");
    }
    for body in [r#"{"model":"m","stream":false}"#, r#"{"model":"m","stream":null}"#] {
        assert!(judge(openai("a", body).as_bytes()).is_ok(), "{body}");
    }
}

#[test]
fn anthropic_params_need_a_whole_max_tokens() {
    for max_tokens in ["0", "-1", "1.0", "1e3", "\"5\"", "null", "18446744073709551616"] {
        let params = format!(r#"{{"model":"m","max_tokens":{max_tokens}}}"#);
        let fault = "`params.max_tokens` must be a whole number, at least 1";
        assert_eq!(only_fault(&anthropic("a", &params)), fault, "{max_tokens}");
    }
    assert_eq!(only_fault(&anthropic("a", "[]")), "`params` must be an object");
    let streams = r#"{"model":"m","max_tokens":1,"stream":true}"#;
    assert_eq!(only_fault(&anthropic("a", streams)), "`params.stream` must not be true in a batch");
    assert_eq!(only_fault(&anthropic("a", r#"{"max_tokens":1}"#)), "`params.model` must be a non-empty string");
}

#[test]
fn max_tokens_goes_by_the_name_its_endpoint_knows() {
    let at = |url: &str, rest: &str| {
        facts(&format!(r#"{{"custom_id":"a","method":"POST","url":"{url}","body":{{"model":"m"{rest}}}}}"#)).0
    };
    assert_eq!(at(CHAT, r#","max_tokens":5"#), Some(5));
    assert_eq!(at(CHAT, r#","max_tokens":5,"max_completion_tokens":9"#), Some(9));
    assert_eq!(at(CHAT, r#","max_output_tokens":5"#), None);
    assert_eq!(at("/v1/responses", r#","max_output_tokens":5,"max_tokens":1"#), Some(5));
    assert_eq!(at("/v1/responses", r#","max_tokens":1"#), None);
    assert_eq!(at("/v1/completions", r#","max_tokens":3"#), Some(3));
    assert_eq!(at(CHAT, r#","max_tokens":null"#), None);
    assert_eq!(at(CHAT, r#","max_tokens":"many""#), None);
}

#[test]
fn choices_are_at_least_one_and_an_odd_count_is_no_bound() {
    for (rest, choices, bounded) in [
        ("", 1, true),
        (r#","n":null"#, 1, true),
        (r#","n":0"#, 1, true),
        (r#","n":4"#, 4, true),
        (r#","n":2,"best_of":5"#, 5, true),
        (r#","n":"4""#, 1, false),
    ] {
        let found = facts(&openai("a", &format!(r#"{{"model":"m"{rest}}}"#)));
        assert_eq!((found.1, found.2.is_some()), (choices, bounded), "{rest}");
    }
}

#[test]
fn bytes_bound_a_prompt_only_if_all_of_it_is_there() {
    let bound = |rest: &str| {
        let body = format!(r#"{{"model":"m",{rest}}}"#);
        facts(&openai("a", &body)).2.map(|most| most - body.len() as u64)
    };
    let text_only = [
        r#""messages":[{"role":"user","content":"an \"image_url\" with \"type\":\"image\""}]"#,
        r#""messages":[{"role":"user","content":[{"type":"text","text":"image"}]}]"#,
        r#""response_format":{"type":"json_schema","json_schema":{"enum":["image","file","document"]}}"#,
        r#""previous_response_id":null,"prompt":"x""#,
    ];
    for rest in text_only {
        assert_eq!(bound(rest), Some(0), "{rest}");
    }
    assert!(bound(r#""tools":[{"type":"function"}]"#).is_some_and(|allowance| allowance > 0));
    let more = [
        r#""messages":[{"content":[{"type":"image_url","image_url":{"url":"https://x"}}]}]"#,
        r#""input":[{"content":[{"image_url":"https://x", "type" : "input_image"}]}]"#,
        r#""messages":[{"content":[{"source":{"type":"url","url":"x"},"type":"document"}]}]"#,
        r#""tools":[{"type":"web_search_20250305","name":"web_search"}]"#,
        r#""previous_response_id":"resp_1""#,
        r#""prompt":{"id":"pmpt_1"}"#,
        r#""prompt":["a","b"]"#,
        r#""inference_geo":"us""#,
    ];
    for rest in more {
        assert_eq!(bound(rest), None, "{rest}");
    }
}

#[test]
fn a_line_over_the_cap_is_refused_by_its_number_and_the_rest_is_read() {
    let max_line_bytes = chat("a").len();
    let limits = Limits { max_line_bytes };
    let long = openai("long", &format!(r#"{{"model":"m","x":"{}"}}"#, "x".repeat(700_000)));
    for end in ["\n", "\r\n"] {
        let good = format!("\u{feff}{}{end}{}{end}{}", chat("a"), chat("b"), chat("c"));
        assert_eq!(judge_within(good.as_bytes(), limits).unwrap().count, 3);
        let file = format!("{}{end}{long}{end}{}{end}{}", chat("a"), chat("bb"), chat("a"));
        let error = judge_within(file.as_bytes(), limits).unwrap_err();
        let lines = format!("line 2: longer than {max_line_bytes} bytes\nline 3: longer than {max_line_bytes} bytes");
        let doubled = "line 4: custom_id \"a\" is already on line 1";
        assert_eq!(error.to_string(), format!("in.jsonl: 3 bad lines\n{lines}\n{doubled}"));
    }
    let mut lines = Lines::new(long.as_bytes(), 10);
    assert!(matches!(lines.next_line(), Ok(Some(reader::Line::TooLong { number: 1, max_line_bytes: 10 }))));
    assert!(matches!(lines.next_line(), Ok(None)));
}

#[test]
fn a_nesting_bomb_is_refused_and_does_not_crash() {
    let nested = |levels: usize| {
        let bomb = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        openai("a", &format!(r#"{{"model":"m","x":{bomb}}}"#))
    };
    // The line and its body are two levels.
    assert!(judge(nested(125).as_bytes()).is_ok());
    for levels in [126, 200_000] {
        assert_eq!(only_fault(&nested(levels)), "nested deeper than 127 levels");
    }
    let brackets_in_text = openai("a", &format!(r#"{{"model":"m","x":"\"{}"}}"#, "[".repeat(500)));
    assert!(judge(brackets_in_text.as_bytes()).is_ok());
    assert_eq!(only_fault(&"[".repeat(200_000)), "not a JSON object");
    assert_eq!(only_fault(&"{\"body\":".repeat(200_000)), "ends in the middle of its JSON");
}

#[test]
fn a_hundred_problems_are_shown_and_the_rest_is_counted() {
    let file = "x\n".repeat(103);
    let shown = judge(file.as_bytes()).unwrap_err().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 102);
    assert_eq!((lines[0], lines[1]), ("in.jsonl: 103 bad lines", "line 1: not JSON (byte 1)"));
    assert_eq!((lines[100], lines[101]), ("line 100: not JSON (byte 1)", "… and 3 more"));
    let one = judge(b"x").unwrap_err().to_string();
    assert_eq!(one, "in.jsonl: 1 bad line\nline 1: not JSON (byte 1)");
}

#[test]
fn a_message_repeats_little_of_the_file_and_stays_on_its_line() {
    let line = format!(r#"{{"{}\n\u001b[2J":1}}"#, "é".repeat(10_000));
    let fault = only_fault(&line);
    assert!(fault.len() < 200 && !fault.contains(char::is_control), "{fault}");
}

#[test]
fn a_file_without_a_request_is_refused() {
    for content in ["", "\n\n", "\u{feff}", "  \r\n"] {
        let error = judge(content.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "in.jsonl holds no request");
    }
}

#[test]
fn both_passes_hash_every_byte() {
    let file = format!("\u{feff}{}\r\n\n{}", chat("a"), chat("b"));
    let scan = judge(file.as_bytes()).unwrap();
    assert_eq!(scan.sha256, ContentHash(Sha256::digest(file.as_bytes()).into()));
    assert_eq!(scan.bytes, file.len() as u64);
    assert_eq!(all_requests(file.as_bytes(), &mut |_| ()), scan.sha256);
    let changed = file.replace("gpt-4o-mini", "gpt-4o-maxi");
    assert_ne!(all_requests(changed.as_bytes(), &mut |_| ()), scan.sha256);
    let lines = Lines::new(file.as_bytes(), 1_000);
    let unread = Requests { path: PathBuf::new(), lines, form: None };
    assert_eq!(unread.finish().unwrap(), scan.sha256);
    assert_eq!(scan.sha256.to_string().len(), 64);
}

#[test]
fn plain_ids_and_models_are_borrowed_from_the_line() {
    all_requests(chat("a").as_bytes(), &mut |request| {
        assert!(matches!(request.custom_id, Cow::Borrowed("a")));
        assert!(matches!(request.model, Cow::Borrowed("gpt-4o-mini")));
    });
}

#[test]
fn what_cannot_be_read_is_named_with_its_reason() {
    let limits = Limits::default();
    let here = env!("CARGO_MANIFEST_DIR");
    let directory = scan(Path::new(here), &limits).unwrap_err().to_string();
    assert_eq!(directory, format!("cannot read {here}: it is a directory"));
    let missing = scan(Path::new("/no/such.jsonl"), &limits).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /no/such.jsonl: No such file"), "{missing}");
    assert!(requests(Path::new("/no/such.jsonl"), &limits).is_err());
    let device = scan(Path::new("/dev/null"), &limits).unwrap_err().to_string();
    assert!(device.contains("not a regular file"), "{device}");
}
