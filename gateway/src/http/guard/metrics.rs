//! How many requests, how long they take, and how many there are right now.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use actix_web::http::{Method, StatusCode};
use actors::metrics::{CODE_CLASSES, HTTP_IN_FLIGHT, HTTP_REQUEST_SECONDS, HTTP_REQUESTS, METHODS};
use metrics::{Counter, Gauge, Histogram};

/// The route of what no route took.
const UNMATCHED: &str = "unmatched";

/// The handles of one worker, so that counting costs one look into a small map. Routes are patterns, so that
/// there are only as many as were written.
pub(super) struct Meter {
    in_flight: Gauge,
    routes: RefCell<HashMap<String, Route>>,
}

struct Route {
    seconds: Histogram,
    answers: [[Option<Counter>; CODE_CLASSES.len()]; METHODS.len()],
}

impl Meter {
    pub fn new() -> Meter {
        Meter { in_flight: metrics::gauge!(HTTP_IN_FLIGHT), routes: RefCell::default() }
    }

    #[expect(clippy::disallowed_methods, reason = "how long the request takes")]
    pub fn enters(self: &std::rc::Rc<Self>, method: &Method) -> Passing {
        self.in_flight.increment(1.0);
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        Passing { meter: std::rc::Rc::clone(self), method, began: Instant::now() }
    }

    fn count(&self, route: Option<String>, method: usize, status: StatusCode, seconds: f64) {
        let route = route.unwrap_or_else(|| UNMATCHED.to_owned());
        let class = usize::from(status.as_u16() / 100).clamp(1, CODE_CLASSES.len()) - 1;
        let mut routes = self.routes.borrow_mut();
        let known = match routes.get_mut(&route) {
            Some(known) => known,
            None => routes.entry(route.clone()).or_insert_with(|| Route {
                seconds: metrics::histogram!(HTTP_REQUEST_SECONDS, "route" => route.clone()),
                answers: Default::default(),
            }),
        };
        known.seconds.record(seconds);
        let answers = known.answers[method][class].get_or_insert_with(|| {
            let labels = [("route", route), ("method", METHODS[method].to_owned())];
            let labels = labels.into_iter().chain([("code_class", CODE_CLASSES[class].to_owned())]).collect::<Vec<_>>();
            metrics::counter!(HTTP_REQUESTS, &labels)
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
