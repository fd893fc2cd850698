//! Rows 45 to 108: bodies that are no JSON of the right form, or say something that cannot be meant.

use super::{DONE, Row, Send, WELL_FORMED};

const MALFORMED: &str = "malformed_json";
const INVALID: &str = "invalid_field";

const fn malformed(number: u16, body: &'static [u8]) -> Row {
    Row::bad(number, Send::Body(body)).code(MALFORMED)
}

const fn invalid(number: u16, body: &'static [u8]) -> Row {
    Row::bad(number, Send::Body(body)).code(INVALID)
}

const fn unknown(number: u16, body: &'static [u8]) -> Row {
    Row::bad(number, Send::Body(body)).code("unknown_field")
}

const fn fine(number: u16, body: &'static [u8]) -> Row {
    Row::new(number, Send::Body(body), DONE)
}

pub(super) const ROWS: &[Row] = &[
    malformed(45, b""),
    malformed(46, b" \r\n\t "),
    malformed(47, b"null"),
    malformed(47, b"1"),
    malformed(47, b"\"noop\""),
    malformed(48, b"[]"),
    malformed(49, b"[\"noop\",1]"),
    malformed(50, b"{\"task\":\"noop\",\"payload\":1} x"),
    malformed(50, b"{\"task\":\"noop\",\"payload\":1}{\"task\":\"noop\",\"payload\":1}"),
    malformed(51, b"\xef\xbb\xbf{\"task\":\"noop\",\"payload\":1}"),
    malformed(52, b"{\0\"\0t\0a\0s\0k\0\"\0:\0\"\0n\0o\0o\0p\0\"\0}\0"),
    malformed(52, b"\xfe\xff\0{\0}"),
    malformed(53, b"{\"task\":\"noop\",\"task\":\"noop\",\"payload\":1}"),
    malformed(54, b"{\"task\":\"noop\",\"payload\":{\"a\":[{\"b\":1,\"b\":2}]}}"),
    Row::bad(55, Send::Body(b"{\"task\":\"noop\",\"payload\":1,\"colour\":1}")).code("unknown_field"),
    Row::bad(55, Send::Body(b"{\"task\":\"noop\",\"payload\":1,\"state\":\"succeeded\"}")).code("unknown_field"),
    invalid(56, b"{\"Task\":\"noop\",\"payload\":1}"),
    invalid(57, b"{\"payload\":1}"),
    invalid(58, b"{\"task\":null,\"payload\":1}"),
    invalid(58, b"{\"task\":7,\"payload\":1}"),
    invalid(58, b"{\"task\":\"noop\",\"payload\":1,\"tags\":\"a\"}"),
    malformed(59, b"{\"task\":\"noop\",\"payload\":1} // done"),
    malformed(59, b"{\"task\":\"noop\",\"payload\":1,}"),
    malformed(59, b"{'task':'noop','payload':1}"),
    malformed(60, b"{\"task\":\"noop\",\"payload\":"),
    malformed(60, b"{\"task\":\"noop\",\"payload\":\"ab"),
    Row::new(61, Send::BuiltBody(|| nested(127)), DONE),
    Row::bad(62, Send::BuiltBody(|| nested(128))).code(MALFORMED),
    Row::new(62, Send::BuiltBody(|| nested(100_000)), &[400, 413]),
    fine(64, b"{\"task\":\"noop\",\"payload\":{\"__proto__\":{\"admin\":true},\"constructor\":1}}"),
    Row::new(65, Send::BuiltBody(hundred_thousand_keys), &[400, 413]),
    Row::new(67, Send::Sized(0), DONE),
    Row::new(68, Send::Sized(1), &[413]).code("body_too_large"),
    Row::new(69, Send::SizedChunks(1), &[413]).code("body_too_large"),
    Row::new(70, Send::PostWith(&[("Content-Type", "application/json"), ("Content-Encoding", "gzip")]), &[415])
        .code("unsupported_encoding"),
    Row::new(71, Send::Built(gzip_bomb), &[415]).code("unsupported_encoding"),
    invalid(72, b"{\"task\":\"\",\"payload\":1}"),
    Row::new(72, Send::Body(b"{\"task\":\"n\",\"payload\":1}"), WELL_FORMED),
    Row::new(72, Send::BuiltBody(|| named(128)), WELL_FORMED),
    Row::bad(72, Send::BuiltBody(|| named(129))).code(INVALID),
    Row::bad(73, Send::BuiltBody(thousand_tags)).code(INVALID),
    Row::new(74, Send::BuiltBody(ten_mebibytes), &[413]).code("body_too_large"),
    Row::bad(75, Send::Batch(|| batch(0))),
    Row::new(76, Send::Batch(|| batch(1_001)), &[413]).code("too_many_items"),
    malformed(81, b"{\"task\":\"noop\",\"payload\":\"\xff\xfe\"}"),
    malformed(82, b"{\"task\":\"noop\",\"payload\":\"\\ud800\"}"),
    malformed(83, b"{\"task\":\"noop\",\"payload\":{\"a\":\"b\\u0000c\"}}"),
    malformed(83, b"{\"task\":\"no\\u0000op\",\"payload\":1}"),
    malformed(84, b"{\"task\":\"noop\",\"payload\":\"a\x01b\"}"),
    invalid(86, b"{\"task\":\"no\\u200bop\",\"payload\":1}"),
    invalid(86, b"{\"task\":\"no\\u202eop\",\"payload\":1}"),
    fine(86, b"{\"task\":\"noop\",\"payload\":\"a\\u200b\\u202eb\"}"),
    fine(87, "{\"task\":\"noop\",\"payload\":\"👩‍👩‍👧‍👦 e\u{301}\u{301}\u{301} 𝒳\"}".as_bytes()),
    invalid(88, "{\"task\":\"n\u{43e}op\",\"payload\":1}".as_bytes()),
    // What divides names in the store is in none of them.
    invalid(88, b"{\"task\":\"no\\u001fop\",\"payload\":1}"),
    invalid(89, "{\"task\":\"no\u{131}op\",\"payload\":1}".as_bytes()),
    fine(90, b"{\"task\":\"noop\",\"payload\":\"\\ufffd \\u2028\"}"),
    malformed(91, b"{\"task\":\"noop\",\"payload\":NaN}"),
    malformed(91, b"{\"task\":\"noop\",\"payload\":-Infinity}"),
    malformed(92, b"{\"task\":\"noop\",\"payload\":1e999}"),
    fine(93, b"{\"task\":\"noop\",\"payload\":-0,\"priority\":-0}"),
    invalid(94, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":65536}"),
    invalid(94, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":-1}"),
    invalid(95, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":1.0}"),
    invalid(95, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":1e0}"),
    invalid(95, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":\"1\"}"),
    malformed(96, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":01}"),
    malformed(96, b"{\"task\":\"noop\",\"payload\":1,\"max_attempts\":+1}"),
    invalid(97, b"{\"task\":\"noop\",\"payload\":1,\"priority\":9223372036854775808}"),
    fine(98, b"{\"task\":\"noop\",\"payload\":9007199254740993}"),
    fine(99, b"{\"task\":\"noop\",\"payload\":123456789012345678901234567890}"),
    invalid(100, b"{\"task\":\"noop\",\"payload\":1,\"max_duration_seconds\":0}"),
    invalid(100, b"{\"task\":\"noop\",\"payload\":1,\"max_duration_seconds\":-1}"),
    invalid(100, b"{\"task\":\"noop\",\"payload\":1,\"max_duration_seconds\":315576000}"),
    invalid(101, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"0000-01-01T00:00:00Z\"}"),
    invalid(101, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"10000-01-01T00:00:00Z\"}"),
    invalid(101, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"2027-02-30T00:00:00Z\"}"),
    invalid(101, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"2026-12-31T23:59:60Z\"}"),
    invalid(102, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"2027-02-20T00:00:00\"}"),
    invalid(102, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"2027-02-20T00:00:00+24:00\"}"),
    invalid(103, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"2199-01-01T00:00:00Z\"}"),
    fine(103, b"{\"task\":\"noop\",\"payload\":1,\"not_before\":\"2001-01-01T00:00:00Z\"}"),
    // There are no schedules, so that every one of them is a name that is not known, and nothing is made of it.
    unknown(104, b"{\"task\":\"noop\",\"payload\":1,\"cron\":\"60 * * * *\"}"),
    unknown(104, b"{\"task\":\"noop\",\"payload\":1,\"cron\":\"* * * *\"}"),
    unknown(104, b"{\"task\":\"noop\",\"payload\":1,\"schedule\":\"@never\"}"),
    Row::bad(104, Send::BuiltBody(long_cron)).code("unknown_field"),
    unknown(105, b"{\"task\":\"noop\",\"payload\":1,\"cron\":\"0 0 30 2 *\"}"),
    unknown(106, b"{\"task\":\"noop\",\"payload\":1,\"cron\":\"30 2 * * *\",\"timezone\":\"Europe/Berlin\"}"),
    unknown(107, b"{\"task\":\"noop\",\"payload\":1,\"retry\":{\"base_seconds\":0,\"factor\":1e308}}"),
    invalid(108, b"{\"task\":\"noop\",\"payload\":1,\"priority\":1000000}"),
    invalid(108, b"{\"task\":\"noop\",\"payload\":1,\"priority\":-1000000}"),
];

/// A mebibyte of zeros in a kilobyte of gzip: its codes for the longest repetition are zeros too.
fn gzip_bomb() -> Vec<u8> {
    const HEAD: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xed\xc1\x01\x01\0\0\0\x80\x90\xfe\xaf\xee\x08\x0a";
    let body = [HEAD, &[0; 1_000]].concat();
    let head = format!("{{post}}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

fn long_cron() -> Vec<u8> {
    format!("{{\"task\":\"noop\",\"payload\":1,\"cron\":\"{}\"}}", "* ".repeat(5 * 1024)).into_bytes()
}

fn body_with(payload: &str) -> Vec<u8> {
    format!("{{\"task\":\"noop\",\"payload\":{payload}}}").into_bytes()
}

/// So many levels, with the body's own.
fn nested(levels: usize) -> Vec<u8> {
    body_with(&format!("{}{}", "[".repeat(levels - 1), "]".repeat(levels - 1)))
}

fn hundred_thousand_keys() -> Vec<u8> {
    let keys: Vec<String> = (0..100_000).map(|index| format!("\"{index}\":0")).collect();
    body_with(&format!("{{{}}}", keys.join(",")))
}

fn named(chars: usize) -> Vec<u8> {
    format!("{{\"task\":\"{}\",\"payload\":1}}", "n".repeat(chars)).into_bytes()
}

fn thousand_tags() -> Vec<u8> {
    let tags: Vec<String> = (0..1_001).map(|index| format!("\"t{index}\"")).collect();
    format!("{{\"task\":\"noop\",\"payload\":1,\"tags\":[{}]}}", tags.join(",")).into_bytes()
}

fn ten_mebibytes() -> Vec<u8> {
    body_with(&format!("\"{}\"", "a".repeat(10 * 1024 * 1024)))
}

fn batch(items: usize) -> Vec<u8> {
    let runs = vec!["{\"task\":\"noop\",\"payload\":1}"; items];
    format!("{{\"runs\":[{}]}}", runs.join(",")).into_bytes()
}
