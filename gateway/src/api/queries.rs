//! What has no parameters in its URL takes none: one that is there all the same was meant to do something.

use crate::http::keys::Caller;
use crate::http::query::Query;
use crate::openapi::{OPERATIONS, takes_query};
use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use std::collections::HashSet;
use std::sync::LazyLock;

/// Operations without any, by method and pattern; the others read theirs themselves.
static WITHOUT: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let without = OPERATIONS.iter().filter(|operation| !takes_query(operation));
    without.map(|operation| format!("{} /api/v1{}", operation.method, operation.path)).collect()
});

pub async fn check<B: MessageBody>(mut request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, Error> {
    if !request.query_string().is_empty() && takes_none(&request) {
        // Whoever has no key is told that, and not what is wrong with the rest.
        request.extract::<Caller>().await?;
        let mut query = Query::parse(request.query_string())?;
        query.reject_unknown();
        query.finish()?;
    }
    next.call(request).await
}

/// A path that is not there, or a method that it has not, is told by whoever finds that.
fn takes_none(request: &ServiceRequest) -> bool {
    let pattern = request.match_pattern();
    pattern.is_some_and(|pattern| WITHOUT.contains(&format!("{} {pattern}", request.method())))
}
