//! Who asks, and for which env.

use super::Api;
use crate::http::problem::{Code, Problem};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::future::LocalBoxFuture;

/// The env of a request.
#[derive(Debug, Clone)]
pub struct Caller {
    pub env: String,
}

const DEFAULT_ENV: &str = "default/dev";

impl FromRequest for Caller {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Caller, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { caller(&request) })
    }
}

fn caller(request: &HttpRequest) -> Result<Caller, Problem> {
    let api = request.app_data::<web::Data<Api>>().ok_or_else(|| Problem::internal("no api data"))?;
    if api.keys {
        return Err(Problem::unauthenticated());
    }
    let env = match request.headers().get("x-tidegate-env") {
        None => DEFAULT_ENV.to_owned(),
        Some(value) => value.to_str().unwrap_or_default().to_owned(),
    };
    if is_env(&env) {
        return Ok(Caller { env });
    }
    Err(Problem::new(Code::InvalidField, "X-Tidegate-Env must be ORG/ENV, each of lower-case letters, digits and `-`"))
}

/// `ORG/ENV`.
pub fn is_env(text: &str) -> bool {
    let is_part = |part: &str| {
        let edges = part.as_bytes().first().zip(part.as_bytes().last());
        (1..=40).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && edges.is_some_and(|(first, last)| *first != b'-' && *last != b'-')
    };
    text.split_once('/').is_some_and(|(org, env)| is_part(org) && is_part(env))
}
