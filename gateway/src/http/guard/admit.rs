//! What is refused by its head alone, before anything is routed.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, Version};

use crate::http::keys;
use crate::http::problem::{Code, Problem};
use crate::http::query::{QUERY_BYTES_MAX, check_path};

/// Every method that some resource has.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Names of parameters under which people put keys.
const KEY_PARAMETERS: [&str; 6] = ["api_key", "apikey", "api-key", "access_token", "token", "authorization"];

/// What depends on where the server stands.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The hosts that are served here, each `host` or `host:port`; all of them if there is no list.
    pub hosts: Option<Vec<String>>,
}

pub(super) fn admit(request: &HttpRequest, rules: &Rules) -> Result<(), Problem> {
    let (headers, uri) = (request.headers(), request.uri());
    let known = METHODS.split(", ").any(|known| known == request.method().as_str());
    if !known || *request.method() == Method::CONNECT {
        return Err(Problem::method_not_allowed(METHODS));
    }
    let host = host(request)?;
    let served = rules.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|served| is_host(served, host)));
    let addressed = uri.authority().is_none_or(|authority| authority.as_str().eq_ignore_ascii_case(host));
    if !served || !addressed {
        return Err(Problem::new(Code::Misdirected, "the request names a host that is not served here"));
    }
    if headers.get_all(header::EXPECT).any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Problem::new(Code::ExpectationFailed, "only `Expect: 100-continue` can be met"));
    }
    if headers.get_all(header::AUTHORIZATION).nth(1).is_some() {
        return Err(Problem::new(Code::MalformedRequest, "the header Authorization is there twice"));
    }
    check_path(uri.path())?;
    check_query(uri.query().unwrap_or_default())
}

/// The host that the request is for, as its header says it.
fn host(request: &HttpRequest) -> Result<&str, Problem> {
    let Some(host) = only_host(request.headers()) else {
        if request.version() < Version::HTTP_11 {
            return Err(Problem::new(Code::HttpVersion, "HTTP/1.0 needs a Host here; use HTTP/1.1"));
        }
        return Err(Problem::new(Code::MalformedRequest, "the request needs one Host"));
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte);
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err(Problem::new(Code::MalformedRequest, "the Host is not a host"));
    }
    Ok(host)
}

fn only_host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST);
    hosts.next().filter(|_| hosts.next().is_none())?.to_str().ok()
}

/// Whether `host` is the one that is `served`, whose port may be left open.
fn is_host(served: &str, host: &str) -> bool {
    if served.eq_ignore_ascii_case(host) {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    served.eq_ignore_ascii_case(name)
}

fn check_query(query: &str) -> Result<(), Problem> {
    if query.len() > QUERY_BYTES_MAX {
        let detail = format!("the query string has {} bytes; {QUERY_BYTES_MAX} are allowed", query.len());
        return Err(Problem::new(Code::UriTooLong, detail));
    }
    for part in query.split('&') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let named = KEY_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known));
        if named || keys::looks_like_key(value) {
            let detail = "send the key as `Authorization: Bearer tg_…`; this one should be revoked if it is real";
            return Err(Problem::new(Code::KeyInQuery, detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn verdict(request: TestRequest, rules: &Rules) -> Option<Code> {
        admit(&request.to_http_request(), rules).err().map(|problem| problem.code)
    }

    fn get(uri: &str) -> TestRequest {
        TestRequest::get().uri(uri).insert_header(("host", "localhost:7070"))
    }

    fn served(hosts: &[&str]) -> Rules {
        Rules { hosts: Some(hosts.iter().map(|host| (*host).to_owned()).collect()) }
    }

    #[test]
    fn an_ordinary_request_is_let_in() {
        for uri in ["/", "/api/v1/runs?limit=5&status=queued", "http://localhost:7070/api/v1/runs"] {
            assert_eq!(verdict(get(uri), &Rules::default()), None, "{uri}");
        }
        let waiting = get("/").insert_header(("expect", "100-Continue"));
        assert_eq!(verdict(waiting, &Rules::default()), None);
        let old = get("/").version(Version::HTTP_10);
        assert_eq!(verdict(old, &Rules::default()), None);
    }

    #[test]
    fn a_head_that_nobody_should_act_on_is_refused() {
        let long = format!("/?a={}", "x".repeat(QUERY_BYTES_MAX));
        let key = format!("/?cursor=tg_acme.prod_{}", "0".repeat(80));
        let method = |name: &str| Method::from_bytes(name.as_bytes()).expect("a method");
        for (row, request, code) in [
            (17, TestRequest::get().uri("/"), Code::MalformedRequest),
            (18, get("/").append_header(("host", "other")), Code::MalformedRequest),
            (19, TestRequest::get().uri("/").version(Version::HTTP_10), Code::HttpVersion),
            (28, get("/").method(method("BREW")), Code::MethodNotAllowed),
            (28, get("/").method(method("get")), Code::MethodNotAllowed),
            (30, get("/").method(Method::TRACE), Code::MethodNotAllowed),
            (31, get("/").method(Method::CONNECT), Code::MethodNotAllowed),
            (32, get("http://elsewhere/api/v1/runs"), Code::Misdirected),
            (32, get("http://me@localhost:7070/"), Code::Misdirected),
            (35, get("/").insert_header(("expect", "a-miracle")), Code::ExpectationFailed),
            (35, get("/").insert_header(("expect", "100-continue, more")), Code::ExpectationFailed),
            (80, get(&long), Code::UriTooLong),
            (111, get("/runs/a%2Fb"), Code::MalformedPath),
            (130, get("/?api_key=x"), Code::KeyInQuery),
            (130, get("/?a=b&Access_Token=x"), Code::KeyInQuery),
            (130, get(&key), Code::KeyInQuery),
            (0, get("/").insert_header(("host", "a b")), Code::MalformedRequest),
            (0, get("/").insert_header(("host", "")), Code::MalformedRequest),
        ] {
            assert_eq!(verdict(request, &Rules::default()), Some(code), "row {row}");
        }
        let twice = get("/").append_header(("authorization", "a")).append_header(("authorization", "a"));
        assert_eq!(verdict(twice, &Rules::default()), Some(Code::MalformedRequest), "row 126");
    }

    #[test]
    fn only_listed_hosts_are_served() {
        let rules = served(&["localhost", "127.0.0.1:7070", "[::1]"]);
        for (host, code) in [
            ("localhost", None),
            ("LOCALHOST:9", None),
            ("127.0.0.1:7070", None),
            ("[::1]:7070", None),
            ("127.0.0.1:80", Some(Code::Misdirected)),
            ("localhost.evil.example", Some(Code::Misdirected)),
            ("evil.example", Some(Code::Misdirected)),
        ] {
            let request = TestRequest::get().uri("/").insert_header(("host", host));
            assert_eq!(verdict(request, &rules), code, "{host}");
        }
    }
}
