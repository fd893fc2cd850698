//! The API's own documents: the OpenAPI document, and pages made of it. They hold nothing that is anybody's, so
//! that nobody is asked for a key.

mod page;
mod style;

use crate::http::problem::{Code, Problem};
use crate::openapi;
use actix_web::http::header;
use actix_web::{HttpResponse, web};
use std::sync::OnceLock;

/// Mounted beside `/api/v1`, as they describe it and are no part of it.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/api/openapi.json", web::get().to(document))
        .route("/api/docs", web::get().to(whole))
        .route("/api/docs/errors/{code}", web::get().to(error));
}

/// `GET /api/openapi.json`
async fn document() -> HttpResponse {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| openapi::document().to_string());
    HttpResponse::Ok().content_type("application/json").body(text.as_str())
}

/// `GET /api/docs`
async fn whole() -> HttpResponse {
    static TEXT: OnceLock<String> = OnceLock::new();
    html(TEXT.get_or_init(|| page::whole(&openapi::document())).clone())
}

/// `GET /api/docs/errors/{code}`: where the `type` of every problem leads.
async fn error(code: web::Path<String>) -> Result<HttpResponse, Problem> {
    let code = Code::ALL.iter().find(|known| known.word() == code.as_str());
    Ok(html(page::error(*code.ok_or_else(|| Problem::not_found("error code"))?)))
}

/// A page that may load nothing, run nothing, and be framed by nobody.
fn html(text: String) -> HttpResponse {
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        style::digest()
    );
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(text)
}
