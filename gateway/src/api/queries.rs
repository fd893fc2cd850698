//! What has no parameters in its URL takes none: one that is there all the same was meant to do something.

use crate::http::query::Query;
use crate::openapi::{OPERATIONS, takes_query};
use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use std::collections::HashSet;
use std::sync::LazyLock;

/// Operations that read their parameters themselves, by method and pattern.
static READERS: LazyLock<HashSet<(&'static str, String)>> = LazyLock::new(|| {
    let readers = OPERATIONS.iter().filter(|operation| takes_query(operation));
    readers.map(|operation| (operation.method, format!("/api/v1{}", operation.path))).collect()
});

pub async fn check<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    if !request.query_string().is_empty() && !is_read(&request) {
        let mut query = Query::parse(request.query_string())?;
        query.reject_unknown();
        query.finish()?;
    }
    next.call(request).await
}

/// A path that is not there, or a method that it has not, is told by whoever finds that.
fn is_read(request: &ServiceRequest) -> bool {
    let Some(pattern) = request.match_pattern() else { return true };
    let known = |method: &'static str| READERS.contains(&(method, pattern.clone()));
    match request.method().as_str() {
        "GET" => known("GET"),
        "POST" => known("POST"),
        "PATCH" => known("PATCH"),
        _ => true,
    }
}
