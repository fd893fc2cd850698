//! Rows 77, 80 and 109 to 140: paths, ids, query strings, headers and credentials.

use super::{DONE, Row, Send};

const LOST: &[u16] = &[400, 404];

const fn get(number: u16, path: &'static str) -> Row {
    Row::new(number, Send::Get(path), LOST)
}

const fn query(number: u16, path: &'static str) -> Row {
    Row::bad(number, Send::Get(path))
}

const fn bare(number: u16, headers: &'static [(&'static str, &'static str)]) -> Row {
    Row::new(number, Send::Bare(headers), &[401]).code("unauthenticated")
}

pub(super) const ROWS: &[Row] = &[
    query(77, "/api/v1/runs?limit=0").code("invalid_field"),
    query(77, "/api/v1/runs?limit=-1").code("invalid_field"),
    query(77, "/api/v1/runs?limit=201").code("invalid_field"),
    query(77, "/api/v1/runs?limit=abc").code("invalid_field"),
    Row::new(80, Send::BuiltGet(|| format!("/api/v1/runs?cursor={}", "a".repeat(8 * 1024))), &[414, 431]),
    get(109, "/api/v1/runs/"),
    get(109, "/api/v1/runs/x"),
    Row::new(109, Send::BuiltGet(|| format!("/api/v1/runs/{}", "a".repeat(10 * 1024))), LOST),
    query(110, "/api/v1/runs/run_%00").code("malformed_path"),
    query(110, "/api/v1/runs?task=a%00b").code("malformed_query"),
    query(110, "/api/v1/runs?queue=a%00b").code("malformed_query"),
    query(110, "/api/v1/runs?tag=%00").code("malformed_query"),
    query(111, "/api/v1/runs/%2e%2e%2fx").code("malformed_path"),
    query(111, "/api/v1/runs/a%2Fb").code("malformed_path"),
    query(111, "/api/v1/runs/../runs").code("malformed_path"),
    query(112, "/api/v1/runs/%zz").code("malformed_path"),
    query(112, "/api/v1/runs?status=%zz").code("malformed_query"),
    query(113, "/api/v1/runs/%ff%fe").code("malformed_path"),
    query(113, "/api/v1/runs?status=%ff%fe").code("malformed_query"),
    get(114, "/api/v1/runs/run_01JD8V9K3Z5M7Q2W4X6Y8A0B1C"),
    get(114, "/api/v1/RUNS"),
    Row::new(116, Send::Get("/api/v1/runs/run_01jd8v9k3z5m7q2w4x6y8a0b1c"), &[404]).code("not_found"),
    Row::new(116, Send::Get("/api/v1/runs/job_01jd8v9k3z5m7q2w4x6y8a0b1c"), &[404]).code("not_found"),
    Row::new(117, Send::Get("/api//v1/runs"), &[404]).code("not_found"),
    get(117, "/api/v1/runs/"),
    query(118, "/api/v1/runs/a b"),
    query(119, "/api/v1/runs?limit=1&limit=1").code("malformed_query"),
    query(120, "/api/v1/runs?colour=1").code("unknown_field"),
    query(120, "/api/v1/runs?Limit=1").code("unknown_field"),
    query(121, "/api/v1/runs?cursor=garbage").code("invalid_cursor"),
    query(121, "/api/v1/runs?cursor=AQAAAAAAAAAAcnVuXzEAAAAAAAAAAAAAAAAAAAAA").code("invalid_cursor"),
    query(123, "/api/v1/runs?status=%27%20OR%201%3D1--"),
    get(123, "/api/v1/runs/%27%20OR%201%3D1--"),
    get(124, "/api/v1/runs/run_%25"),
    bare(125, &[]),
    bare(126, &[("Authorization", "Basic dXNlcjpwYXNz")]),
    bare(126, &[("Authorization", "tg_acme.prod")]),
    Row::new(126, Send::With(&[("Authorization", "Bearer a")]), &[400, 401]),
    bare(127, &[("Authorization", "Bearer tg_acme.prod_0123456789abcdef_0123456789abcdef_0000000")]),
    query(130, "/api/v1/runs?api_key=tg_acme.prod_0123456789abcdef").code("key_in_query"),
    Row::new(131, Send::Bare(&[("Authorization", "Bearer a\0b")]), &[400, 401]),
    bare(131, &[("Authorization", "Bearer tg_\u{e9}\u{e9}")]),
    Row::bad(132, Send::PostWith(&[("Content-Type", "application/json"), ("Idempotency-Key", "")])),
    Row::bad(132, Send::PostWith(&[("Content-Type", "application/json"), ("Idempotency-Key", LONG_KEY)])),
    Row::bad(132, Send::PostWith(&[("Content-Type", "application/json"), ("Idempotency-Key", "clé")])),
    Row::new(134, Send::PostWith(&[]), &[415]).code("unsupported_media_type"),
    Row::new(134, Send::PostWith(&[("Content-Type", "text/plain")]), &[415]).code("unsupported_media_type"),
    Row::new(135, Send::PostWith(&[("Content-Type", "application/json; charset=utf-16")]), &[415])
        .code("unsupported_media_type"),
    Row::new(135, Send::PostWith(&[("Content-Type", "application/x+json")]), &[415]).code("unsupported_media_type"),
    Row::new(136, Send::With(&[("Accept", "text/html")]), &[200, 406]),
    Row::new(137, Send::With(&[("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1;host=elsewhere")]), DONE),
    Row::new(140, Send::With(&[("traceparent", "00-zz-1-xx")]), DONE),
    Row::bad(88, Send::With(&[("X-Tidegate-Env", "\u{430}cme/prod")])),
    Row::bad(88, Send::With(&[("X-Tidegate-Env", "Acme/prod")])),
    Row::bad(88, Send::With(&[("X-Tidegate-Env", "acme\u{1f}/prod")])),
];

/// 256 characters, one too many.
const LONG_KEY: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
                        kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
                        kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
                        kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
