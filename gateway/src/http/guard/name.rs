//! The name of a request: what its sender calls it, or one that is made for it.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use crate::http::keys::looks_like_key;
use crate::http::problem::Problem;

pub const REQUEST_ID_HEADER: &str = "x-request-id";

const CHARS_MAX: usize = 128;

/// Stands in the answer's header, in a problem's body and in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes the sender's name for it if that is harmless in a log; makes one otherwise.
    pub(super) fn of(headers: &HeaderMap) -> RequestId {
        let mut values = headers.get_all(REQUEST_ID_HEADER);
        let given = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
        match given.filter(|given| is_harmless(given)) {
            Some(given) => RequestId(given.into()),
            None => RequestId(format!("req_{:032x}", rand::random::<u128>()).into()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromRequest for RequestId {
    type Error = Problem;
    type Future = Ready<Result<RequestId, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.extensions().get::<RequestId>().cloned();
        ready(id.ok_or_else(|| Problem::internal("the app has no guard")))
    }
}

fn is_harmless(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    // Whoever mistakes this header for that of the key must not find the key in answers and logs.
    (1..=CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed) && !looks_like_key(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_senders_name_is_kept_if_it_is_harmless() {
        let (long, longer) = ("r".repeat(128), "r".repeat(129));
        let key = format!("tg_acme.prod_{}_{}", "0".repeat(16), "z".repeat(52));
        for (given, kept) in [
            ("my-req_1.2", true),
            ("tg_1", true),
            (&long, true),
            (&longer, false),
            ("a b", false),
            ("a\"b", false),
            (&key, false),
        ] {
            let request = TestRequest::get().insert_header((REQUEST_ID_HEADER, given)).to_http_request();
            let id = RequestId::of(request.headers());
            assert_eq!(id.as_str() == given, kept, "{given}");
            assert!(kept || (id.as_str().starts_with("req_") && id.as_str().len() == 36), "{id}");
        }
        let none = TestRequest::get().to_http_request();
        assert_ne!(RequestId::of(none.headers()), RequestId::of(none.headers()));
    }
}
