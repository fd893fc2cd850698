//! Bad requests over raw connections (catalogue rows 1–140): each is refused as it should be, by a problem and
//! not by a parser's words, the same way twice, and a good request follows.

mod driver;
mod rows;
mod tiny;
mod wire;

use std::time::Duration;

use driver::{Place, findings};
use tiny::Tiny;

#[test]
fn every_bad_request_is_refused_as_the_catalogue_says() {
    let tiny = Tiny::start();
    let place = Place {
        address: tiny.address,
        key: Some(tiny.key.clone()),
        body_bytes_max: tiny::BODY_BYTES_MAX,
        patience: Duration::from_secs(20),
        drip_every: Duration::from_millis(50),
    };
    let found = findings(&place, &rows::all());
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}
