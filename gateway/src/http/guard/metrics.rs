//! How many requests, how long they take, and how many there are right now.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use actix_web::http::{Method, StatusCode};
use metrics::{Counter, Gauge, Histogram, Unit};

pub const REQUESTS: &str = "tidegate_http_requests_total";
pub const REQUEST_SECONDS: &str = "tidegate_http_request_duration_seconds";
pub const IN_FLIGHT: &str = "tidegate_http_in_flight_requests";

/// Buckets of `tidegate_http_request_duration_seconds`.
pub const REQUEST_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Registers every help text with the installed recorder.
pub fn describe() {
    metrics::describe_counter!(REQUESTS, Unit::Count, "Requests by route, method and class of the answer's status.");
    metrics::describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "From a request's head to the head of its answer.");
    metrics::describe_gauge!(IN_FLIGHT, Unit::Count, "Requests that have not been answered yet.");
}

/// The route of what no route took.
const UNMATCHED: &str = "unmatched";

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The handles of one worker, so that counting costs one look into a small map. Routes are patterns, so that
/// there are only as many as were written.
pub(super) struct Meter {
    in_flight: Gauge,
    routes: RefCell<HashMap<String, Route>>,
}

struct Route {
    seconds: Histogram,
    answers: [[Option<Counter>; CLASSES.len()]; METHODS.len()],
}

impl Meter {
    pub fn new() -> Meter {
        Meter { in_flight: metrics::gauge!(IN_FLIGHT), routes: RefCell::default() }
    }

    #[expect(clippy::disallowed_methods, reason = "how long the request takes")]
    pub fn enters(self: &std::rc::Rc<Self>, method: &Method) -> Passing {
        self.in_flight.increment(1.0);
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        Passing { meter: std::rc::Rc::clone(self), method, began: Instant::now() }
    }

    fn count(&self, route: Option<String>, method: usize, status: StatusCode, seconds: f64) {
        let route = route.unwrap_or_else(|| UNMATCHED.to_owned());
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        let mut routes = self.routes.borrow_mut();
        let known = match routes.get_mut(&route) {
            Some(known) => known,
            None => routes.entry(route.clone()).or_insert_with(|| Route {
                seconds: metrics::histogram!(REQUEST_SECONDS, "route" => route.clone()),
                answers: Default::default(),
            }),
        };
        known.seconds.record(seconds);
        let answers = known.answers[method][class].get_or_insert_with(|| {
            let labels = [("route", route), ("method", METHODS[method].to_owned())];
            let labels = labels.into_iter().chain([("code_class", CLASSES[class].to_owned())]).collect::<Vec<_>>();
            metrics::counter!(REQUESTS, &labels)
        });
        answers.increment(1);
    }
}

/// A request that is being answered; it counts as one until it is dropped, whatever becomes of it.
pub(super) struct Passing {
    meter: std::rc::Rc<Meter>,
    method: usize,
    began: Instant,
}

impl Passing {
    pub fn leaves(&self, route: Option<String>, status: StatusCode) {
        self.meter.count(route, self.method, status, self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.meter.in_flight.decrement(1.0);
    }
}
