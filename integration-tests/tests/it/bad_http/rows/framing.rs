//! Rows 1 to 44: requests that are broken as HTTP. The framework answers most of them, without a body.

use super::{DONE, Row, Send};

const TLS_HELLO: &[u8] =
    b"\x16\x03\x01\x00\xf5\x01\x00\x00\xf1\x03\x03\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\r\n";

pub(super) const ROWS: &[Row] = &[
    Row::bad(1, Send::Bytes(b"{post}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    Row::bad(2, Send::Bytes(b"{post}Content-Length: {length}\r\nContent-Length: 3\r\n\r\n{body}")),
    Row::bad(3, Send::Bytes(b"{post}Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n{body}")),
    Row::bad(4, Send::Bytes(b"{post}Content-Length: {length}, {length}\r\n\r\n{body}")),
    Row::bad(5, Send::Bytes(b"{post}Content-Length: -1\r\n\r\n{body}")),
    Row::bad(6, Send::Bytes(b"{post}Content-Length: +{length}\r\n\r\n{body}")),
    Row::bad(6, Send::Bytes(b"{post}Content-Length: 0x5\r\n\r\n{body}")),
    Row::bad(7, Send::Bytes(b"{post}Content-Length: 18446744073709551616\r\n\r\n{body}")),
    Row::bad(8, Send::HalfClosed(b"{post}Content-Length: 900\r\n\r\n{body}")).code("body_incomplete"),
    Row::bad(9, Send::Bytes(b"{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
    Row::bad(10, Send::Bytes(b"{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
    Row::bad(11, Send::Bytes(b"{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    Row::bad(12, Send::Bytes(b"{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n")),
    Row::reset(13, Send::Bytes(b"{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n")),
    Row::reset(14, Send::Bytes(b"{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}\r\n0\r\n\r\n")),
    Row::reset(15, Send::Bytes(b"{post}Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n")),
    Row::new(16, Send::Bytes(b"{post}Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n"), &[400])
        .code("invalid_field"),
    Row::bad(17, Send::Bytes(b"GET /api/v1/runs HTTP/1.1\r\n{auth}\r\n")),
    Row::bad(18, Send::Bytes(b"{get}Host: elsewhere\r\n\r\n")),
    Row::bad(19, Send::Bytes(b"GET /api/v1/runs HTTP/1.0\r\n{auth}\r\n")).code("http_version"),
    Row::bad(20, Send::Bytes(b"GET /api/v1/runs HTTP/2.0\r\nHost: {host}\r\n\r\n")),
    Row::bad(21, Send::Bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    // Bare line feeds are read as line ends, below anything that is ours; a proxy in front may refuse them.
    Row::new(22, Send::Bytes(b"GET /api/v1/runs HTTP/1.1\nHost: {host}\n{auth}\r\n"), &[200, 400]),
    Row::bad(23, Send::Bytes(b"{get}X-Folded: a\r\n b\r\n\r\n")),
    Row::bad(24, Send::Bytes(b"{get}X-Nul: a\0b\r\n\r\n")),
    Row::bad(24, Send::Bytes(b"{get}X-Cr: a\rb\r\n\r\n")),
    Row::new(25, Send::Built(too_many_headers), &[431]),
    Row::new(26, Send::Built(huge_header), &[431]),
    Row::new(26, Send::Built(huge_path), &[414, 431]),
    Row::bad(27, Send::Bytes(b"G\x01T /api/v1/runs HTTP/1.1\r\nHost: {host}\r\n\r\n")),
    Row::new(28, Send::Bytes(b"BREW /api/v1/runs HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"), &[405])
        .code("method_not_allowed"),
    Row::new(29, Send::Bytes(b"DELETE /api/v1/runs HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"), &[405])
        .code("method_not_allowed"),
    Row::new(30, Send::Bytes(b"TRACE /api/v1/runs HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"), &[405])
        .code("method_not_allowed"),
    Row::new(31, Send::Bytes(b"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"), &[405])
        .code("method_not_allowed"),
    Row::new(32, Send::Bytes(b"GET http://elsewhere/api/v1/runs HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"), &[421])
        .code("misdirected"),
    Row::new(33, Send::Bytes(b"{get}Content-Length: 5\r\n\r\nhello"), DONE),
    Row::new(34, Send::Pipelined, DONE),
    Row::new(35, Send::Bytes(b"{get}Expect: a-miracle\r\n\r\n"), &[417]).code("expectation_failed"),
    Row::new(
        36,
        Send::Bytes(b"{get}Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n\r\n"),
        DONE,
    ),
    Row::bad(37, Send::Bytes(TLS_HELLO)),
    Row::new(38, Send::Stalled(b""), &[0, 408]),
    Row::new(39, Send::Dripping(b"GET /", b'x'), &[408]),
    Row::new(40, Send::Stalled(b"{post}Content-Length: 900\r\n\r\n{\"task\""), &[408]).code("body_timeout"),
    Row::new(40, Send::Stalled(b"{post}Transfer-Encoding: chunked\r\n\r\n5\r\n{\"tas"), &[408]).code("body_timeout"),
    Row::new(41, Send::Dripping(b"{post}Content-Length: 90000\r\n\r\n{", b' '), &[408]).code("body_timeout"),
    Row::new(44, Send::Aborted(b"{get}\r\n"), &[0]),
];

fn too_many_headers() -> Vec<u8> {
    let headers: String = (0..97).map(|index| format!("X-{index}: a\r\n")).collect();
    format!("{{get}}{headers}\r\n").into_bytes()
}

fn huge_header() -> Vec<u8> {
    format!("{{get}}X-Huge: {}\r\n\r\n", "a".repeat(200 * 1024)).into_bytes()
}

fn huge_path() -> Vec<u8> {
    format!("GET /api/v1/runs/{} HTTP/1.1\r\nHost: {{host}}\r\n{{auth}}\r\n", "a".repeat(200 * 1024)).into_bytes()
}
