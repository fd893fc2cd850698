use super::*;
use crate::http::body::{self, Limits};
use actix_web::http::header::TryIntoHeaderPair;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, HttpRequest, web};
use serde_json::Value;

async fn panics() -> HttpResponse {
    panic!("the secret of the panic")
}

async fn refuses() -> Result<HttpResponse, Problem> {
    Err(Problem::field("/task", "required", "is required"))
}

async fn fails() -> Result<HttpResponse, Error> {
    Err(actix_web::error::ErrorInternalServerError("SELECT secret"))
}

async fn answers_in_its_own_form() -> Result<HttpResponse, Error> {
    let own = HttpResponse::BadRequest().content_type("application/json").body("{\"error\":{}}");
    Err(InternalError::from_response("own", own).into())
}

async fn echoes(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let bytes = body::read(payload, &request, &Limits::of(1_000)).await?;
    Ok(HttpResponse::Ok().body(bytes))
}

async fn names_it(id: RequestId) -> String {
    id.to_string()
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/panics").get(panics))
        .service(web::resource("/refuses/{id}").get(refuses).post(refuses))
        .service(web::resource("/fails").get(fails))
        .service(web::resource("/own").get(answers_in_its_own_form))
        .service(web::resource("/echoes").post(echoes))
        .service(web::resource("/names").get(names_it))
        .service(web::resource("/number/{n}").get(async |n: web::Path<u8>| n.to_string()))
        .service(web::resource("/page").get(async || HttpResponse::NotFound().content_type("text/html").body("no")))
        .service(
            web::resource("/cached")
                .get(async || HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "max-age=60")).finish()),
        );
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), MEDIA_TYPE);
        let problem: Value = serde_json::from_str(&self.body).expect("a problem");
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        problem
    }
}

async fn ask(request: TestRequest) -> Answer {
    let app = init_service(App::new().wrap(Guard::default()).configure(routes)).await;
    let request = request.insert_header(("host", "localhost")).to_request();
    let response = match app.call(request).await {
        Ok(response) => response.into_parts().1,
        // What the server does with an error of the outermost service.
        Err(error) => HttpResponse::from_error(error),
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = actix_web::body::to_bytes(response.into_body()).await.unwrap_or_default();
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

fn get(uri: &str) -> TestRequest {
    TestRequest::get().uri(uri)
}

fn named(request: TestRequest, header: impl TryIntoHeaderPair) -> TestRequest {
    request.insert_header(header)
}

#[actix_web::test]
async fn every_answer_carries_its_name_and_the_safe_headers() {
    for uri in ["/names", "/nowhere", "/refuses/1", "/panics", "/fails", "/cached", "/refuses/a%2Fb"] {
        let answer = ask(named(get(uri), ("x-request-id", "mine-1"))).await;
        assert_eq!(answer.header("x-request-id"), "mine-1", "{uri}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{uri}");
        let cached = if uri == "/cached" { "max-age=60" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), cached, "{uri}");
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")), "{uri}");
    }
    assert_eq!(ask(named(get("/names"), ("x-request-id", "mine-1"))).await.body, "mine-1");
}

#[actix_web::test]
async fn every_error_leaves_as_a_problem() {
    for (uri, status, code) in [
        ("/nowhere", 404, "not_found"),
        ("/refuses/1", 400, "invalid_field"),
        ("/fails", 500, "internal"),
        ("/panics", 500, "internal"),
        ("/number/abc", 404, "not_found"),
        ("/refuses/%zz", 400, "malformed_path"),
    ] {
        let answer = ask(get(uri)).await;
        assert_eq!(answer.status, status, "{uri}");
        assert_eq!(answer.problem()["code"], code, "{uri}");
        assert!(!answer.body.contains("secret") && !answer.body.contains("panic"), "{}", answer.body);
        assert!(!answer.body.contains("parse"), "{}", answer.body);
    }
}

#[actix_web::test]
async fn row_29_a_wrong_method_is_told_the_right_ones() {
    for method in [Method::DELETE, Method::OPTIONS, Method::PUT] {
        let answer = ask(get("/refuses/1").method(method)).await;
        assert_eq!(answer.status, 405);
        assert_eq!(answer.problem()["code"], "method_not_allowed");
        let allow = answer.header("allow");
        for right in ["GET", "POST", "HEAD"] {
            assert!(allow.split(", ").any(|allowed| allowed == right), "{right} of {allow}");
        }
    }
    let answer = ask(get("/refuses/1").method(Method::TRACE)).await;
    assert_eq!((answer.status, answer.header("allow").is_empty()), (405, false));
}

#[actix_web::test]
async fn an_answer_with_a_form_of_its_own_is_left_alone() {
    assert_eq!(ask(get("/own")).await.body, "{\"error\":{}}");
    let page = ask(get("/page")).await;
    assert_eq!((page.status, page.body.as_str()), (404, "no"));
}

#[actix_web::test]
async fn a_body_is_still_read_by_its_handler() {
    let app = init_service(App::new().wrap(Guard::default()).configure(routes)).await;
    let request = TestRequest::post().uri("/echoes").insert_header(("host", "localhost"));
    let request = request.insert_header(("content-type", "application/json")).set_payload("{\"a\":1}");
    let response = call_service(&app, request.to_request()).await;
    assert_eq!(read_body(response).await, "{\"a\":1}");
}

#[test]
fn requests_are_counted_by_their_route_and_never_by_their_path() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || {
        actix_web::rt::System::new().block_on(async {
            for uri in ["/refuses/1", "/refuses/2", "/names", "/nowhere/secret", "/panics", "/refuses/a%2Fb"] {
                ask(get(uri)).await;
            }
            ask(get("/refuses/3").method(Method::POST)).await;
            ask(get("/refuses/3").method(Method::DELETE)).await;
        });
    });
    let text = handle.render();
    for line in [
        "tidegate_http_requests_total{route=\"/refuses/{id}\",method=\"GET\",code_class=\"4xx\"} 3",
        "tidegate_http_requests_total{route=\"/refuses/{id}\",method=\"POST\",code_class=\"4xx\"} 1",
        "tidegate_http_requests_total{route=\"/names\",method=\"GET\",code_class=\"2xx\"} 1",
        "tidegate_http_requests_total{route=\"unmatched\",method=\"GET\",code_class=\"5xx\"} 1",
        "tidegate_http_request_duration_seconds_count{route=\"/names\"} 1",
        "tidegate_http_in_flight_requests 0",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(!text.contains("secret") && !text.contains("%2F"), "{text}");
}
