use super::*;

const RETRYABLE: Outcome = Outcome::Errored { retryable: true };
const FINAL: Outcome = Outcome::Errored { retryable: false };

fn openai(line: &str) -> (Outcome, Option<String>) {
    verdict(Form::OpenAi, line)
}

fn anthropic(result: &str) -> (Outcome, Option<String>) {
    verdict(Form::Anthropic, &format!(r#"{{"custom_id":"a","result":{result}}}"#))
}

fn verdict(form: Form, line: &str) -> (Outcome, Option<String>) {
    let parsed = ResultLine::parse(form, line).unwrap();
    (parsed.outcome, parsed.code.map(Cow::into_owned))
}

fn answered(status: &str, body: &str) -> String {
    format!(
        r#"{{"id":"batch_req_1","custom_id":"a","response":{{"status_code":{status},"request_id":"r","body":{body}}},"error":null}}"#
    )
}

#[test]
fn a_success_has_its_usage_and_no_code() {
    let body = r#"{"choices":[{"message":{"refusal":null},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let line = answered("200", body);
    let parsed = ResultLine::parse(Form::OpenAi, &line).unwrap();
    assert_eq!((parsed.outcome, parsed.code.as_deref()), (Outcome::Succeeded, None));
    assert_eq!(parsed.usage, Some(Usage { input: 9, output: 3, ..Usage::default() }));
    assert!(matches!(parsed.custom_id, Cow::Borrowed("a")));
}

#[test]
fn the_status_decides_whether_another_try_may_help() {
    let cases = [
        ("0", RETRYABLE, "http_0"),
        ("null", RETRYABLE, "http_0"),
        ("\"200\"", RETRYABLE, "http_0"),
        ("400", FINAL, "http_400"),
        ("404", FINAL, "http_404"),
        ("413", FINAL, "http_413"),
        ("422", FINAL, "http_422"),
        ("401", RETRYABLE, "http_401"),
        ("403", RETRYABLE, "http_403"),
        ("408", RETRYABLE, "http_408"),
        ("409", RETRYABLE, "http_409"),
        ("429", RETRYABLE, "http_429"),
        ("500", RETRYABLE, "http_500"),
        ("529", RETRYABLE, "http_529"),
    ];
    for (status, outcome, code) in cases {
        assert_eq!(openai(&answered(status, "{}")), (outcome, Some(code.to_owned())), "{status}");
        assert_eq!(openai(&answered(status, "null")).0, outcome, "{status}");
    }
}

#[test]
fn the_code_is_the_finest_machine_word_and_never_prose() {
    let cases = [
        (r#"{"message":"m","type":"t","param":null,"code":"c"}"#, "c"),
        (r#"{"message":"m","type":"invalid_request_error","code":null}"#, "invalid_request_error"),
        (r#"{"message":"m","code":1234}"#, "1234"),
        (r#"{"message":"m","code":"two words"}"#, "http_400"),
        (r#"{"message":"m","code":""}"#, "http_400"),
        (r#""just a text""#, "http_400"),
    ];
    for (error, code) in cases {
        assert_eq!(openai(&answered("400", &format!(r#"{{"error":{error}}}"#))).1.as_deref(), Some(code), "{error}");
    }
}

#[test]
fn a_line_without_a_response_is_judged_by_its_code() {
    let cases = [
        ("batch_expired", Outcome::Expired),
        ("batch_cancelled", Outcome::Canceled),
        ("server_error", RETRYABLE),
        ("invalid_request", FINAL),
    ];
    for (code, outcome) in cases {
        let error = format!(r#"{{"code":"{code}","message":"m"}}"#);
        let null = format!(r#"{{"custom_id":"a","response":null,"error":{error}}}"#);
        let absent = format!(r#"{{"error":{error},"custom_id":"a"}}"#);
        assert_eq!(openai(&null), (outcome, Some(code.to_owned())));
        assert_eq!(openai(&absent), (outcome, Some(code.to_owned())));
    }
}

#[test]
fn an_error_inside_a_200_is_an_error() {
    let cases = [
        (r#"{"error":{"code":"server_error","message":"m"}}"#, RETRYABLE, "server_error"),
        (r#"{"error":{"code":"invalid_prompt","message":"m"}}"#, FINAL, "invalid_prompt"),
        (r#"{"error":{"code":"x","type":"invalid_request_error"}}"#, FINAL, "x"),
        (r#"{"error":"oops"}"#, RETRYABLE, "failed"),
        (r#"{"status":"failed","error":null}"#, RETRYABLE, "failed"),
    ];
    for (body, outcome, code) in cases {
        assert_eq!(openai(&answered("200", body)), (outcome, Some(code.to_owned())), "{body}");
    }
    for body in [r#"{"status":"incomplete","error":null}"#, r#"{"error":null}"#, "null", "[]", "\"text\""] {
        assert_eq!(openai(&answered("200", body)), (Outcome::Succeeded, None), "{body}");
    }
}

#[test]
fn a_truncated_or_filtered_answer_is_a_success_and_a_refusal_is_billed() {
    let cases = [
        (r#"[{"finish_reason":"length"}]"#, Outcome::Succeeded),
        (r#"[{"finish_reason":"content_filter"}]"#, Outcome::Succeeded),
        (r#"[{"message":{"content":"\"refusal\""},"finish_reason":"stop"}]"#, Outcome::Succeeded),
        (r#"[{"message":{"refusal":"no"},"finish_reason":"stop"}]"#, Outcome::Succeeded),
        (r#"[{"finish_reason":"refusal"}]"#, Outcome::Refused),
        (r#"[{"finish_reason":"refusal"},{"finish_reason":"stop"}]"#, Outcome::Succeeded),
        (r#"["refusal"]"#, Outcome::Succeeded),
    ];
    for (choices, outcome) in cases {
        let line = answered("200", &format!(r#"{{"choices":{choices},"usage":{{"prompt_tokens":4}}}}"#));
        let parsed = ResultLine::parse(Form::OpenAi, &line).unwrap();
        assert_eq!(parsed.outcome, outcome, "{choices}");
        assert_eq!(parsed.usage.map(|usage| usage.input), Some(4));
    }
}

#[test]
fn anthropic_results_are_judged_by_their_type() {
    let error = |inner: &str| format!(r#"{{"type":"errored","error":{{"type":"error","error":{inner}}}}}"#);
    let cases = [
        (r#"{"type":"canceled"}"#.to_owned(), Outcome::Canceled, None),
        (r#"{"type":"expired"}"#.to_owned(), Outcome::Expired, None),
        (error(r#"{"type":"invalid_request_error","message":"m"}"#), FINAL, Some("invalid_request_error")),
        (error(r#"{"type":"overloaded_error","message":"m"}"#), RETRYABLE, Some("overloaded_error")),
        (error(r#"{"type":"api_error","message":"m"}"#), RETRYABLE, Some("api_error")),
        (error(r#"{"type":"not_found_error","message":"m"}"#), FINAL, Some("not_found_error")),
        (r#"{"type":"errored","error":{"type":"api_error","message":"m"}}"#.to_owned(), RETRYABLE, Some("api_error")),
        (r#"{"type":"errored"}"#.to_owned(), RETRYABLE, Some("unknown_error")),
    ];
    for (result, outcome, code) in cases {
        assert_eq!(anthropic(&result), (outcome, code.map(str::to_owned)), "{result}");
    }
}

#[test]
fn an_anthropic_refusal_keeps_its_usage() {
    let line = r#"{"result":{"type":"succeeded","message":{"stop_reason":"refusal",
        "usage":{"input_tokens":3,"output_tokens":1}}},"custom_id":"a"}"#;
    let parsed = ResultLine::parse(Form::Anthropic, line).unwrap();
    assert_eq!(parsed.outcome, Outcome::Refused);
    assert_eq!(parsed.usage, Some(Usage { input: 3, output: 1, ..Usage::default() }));
    assert_eq!(anthropic(r#"{"type":"succeeded","message":{"stop_reason":"max_tokens"}}"#).0, Outcome::Succeeded);
}

#[test]
fn an_empty_purse_is_recognised_and_stays_retryable() {
    let quota = answered("429", r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#);
    let limit = answered("400", r#"{"error":{"type":"invalid_request_error","code":"billing_hard_limit_reached"}}"#);
    let rate = answered("429", r#"{"error":{"type":"requests","code":"rate_limit_exceeded"}}"#);
    for (line, out_of_money) in [(&quota, true), (&limit, true), (&rate, false)] {
        let parsed = ResultLine::parse(Form::OpenAi, line).unwrap();
        assert_eq!((parsed.outcome, parsed.is_out_of_money()), (RETRYABLE, out_of_money), "{line}");
    }
    let errors = [
        r#"{"type":"billing_error","message":"m"}"#,
        r#"{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}"#,
        r#"{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}"#,
    ];
    for error in errors {
        let line =
            format!(r#"{{"custom_id":"a","result":{{"type":"errored","error":{{"type":"error","error":{error}}}}}}}"#);
        let parsed = ResultLine::parse(Form::Anthropic, &line).unwrap();
        assert_eq!((parsed.outcome, parsed.is_out_of_money()), (RETRYABLE, true), "{error}");
    }
}

#[test]
fn a_line_cut_short_is_told_from_a_broken_one() {
    let line = answered("200", "{}");
    for end in 0..line.len() {
        assert_eq!(ResultLine::parse(Form::OpenAi, &line[..end]), Err(ResultLineError::CutShort), "{end}");
    }
    for broken in ["[]", "null", "{}{}", r#"{"custom_id":"a",}"#, "\u{feff}{}", "\"x\""] {
        let error = ResultLine::parse(Form::OpenAi, broken);
        assert!(matches!(error, Err(ResultLineError::NotAnObject { .. })), "{broken}");
    }
}

#[test]
fn a_line_that_names_no_request_or_no_result_is_refused() {
    for line in [r#"{"response":{}}"#, r#"{"custom_id":7}"#, r#"{"custom_id":null}"#, r#"{"custom_id":"\ud800"}"#] {
        assert_eq!(ResultLine::parse(Form::OpenAi, line), Err(ResultLineError::NoCustomId), "{line}");
    }
    assert_eq!(ResultLine::parse(Form::OpenAi, r#"{"custom_id":"a"}"#), Err(ResultLineError::NoResult));
    for line in [r#"{"custom_id":"a","result":{"type":"new"}}"#, r#"{"custom_id":"a","result":[]}"#] {
        assert_eq!(ResultLine::parse(Form::Anthropic, line), Err(ResultLineError::NoResult), "{line}");
    }
}

#[test]
fn splicing_changes_the_id_and_not_one_byte_more() {
    let body = r#"{ "b":1e999, "a":"\ud800 \u0000 é", "a":12345678901234567890123, "custom_id":"w-1" }"#;
    for (before, after) in [("{", "}"), ("{ \"x\" : [ ] , ", " } ")] {
        let rest = format!(r#","response":{{"status_code":200,"body":{body}}},"error":null"#);
        let line = format!(r#"{before}"custom_id" : "w\u002d1"{rest}{after}"#);
        let parsed = ResultLine::parse(Form::OpenAi, &line).unwrap();
        assert_eq!(parsed.custom_id, "w-1");
        assert_eq!(&line[parsed.custom_id_span.clone()], r#""w\u002d1""#);
        let original = "a \"quoted\"\\ é\u{1}\n\u{2028}";
        let spliced = splice_custom_id(&line, parsed.custom_id_span, original);
        let expected = "\"a \\\"quoted\\\"\\\\ é\\u0001\\n\u{2028}\"";
        assert_eq!(spliced, format!(r#"{before}"custom_id" : {expected}{rest}{after}"#));
        assert_eq!(ResultLine::parse(Form::OpenAi, &spliced).unwrap().custom_id, original);
    }
}

#[test]
fn a_nesting_bomb_in_an_answer_does_not_crash() {
    let bomb = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(openai(&answered("200", &bomb)), (Outcome::Succeeded, None));
    let in_choices = format!(r#"{{"choices":[{{"x":"refusal","finish_reason":{bomb}}}]}}"#);
    assert_eq!(openai(&answered("200", &in_choices)), (Outcome::Succeeded, None));
}

#[test]
fn a_synthetic_line_is_read_back_as_what_it_says() {
    let id = "odd \"id\"\n\u{1F980}";
    let cases = [
        (Form::OpenAi, "batch_expired", Outcome::Expired, Some("batch_expired")),
        (Form::OpenAi, "lost", RETRYABLE, Some("lost")),
        (Form::Anthropic, "batch_expired", Outcome::Expired, None),
        (Form::Anthropic, "canceled", Outcome::Canceled, None),
        (Form::Anthropic, "lost", RETRYABLE, Some("lost")),
        (Form::Anthropic, "invalid_request_error", FINAL, Some("invalid_request_error")),
    ];
    for (form, code, outcome, found) in cases {
        let line = synthetic_line(form, id, code, "it \"never\" came\nback");
        assert!(!line.contains('\n'));
        let parsed = ResultLine::parse(form, &line).unwrap();
        assert_eq!((parsed.custom_id.as_ref(), parsed.outcome, parsed.code.as_deref()), (id, outcome, found));
        assert_eq!(line, synthetic_line(form, id, code, "it \"never\" came\nback"));
    }
}
