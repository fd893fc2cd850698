//! S2: what every route asks of a key, and that it asks it.

use super::{ALL_SCOPES, LATER, ask, caller, id_of, key, request, secret_of, tidegate, unnamed};
use gateway::api::ROUTES;
use gateway::http::keys::{NewKey, Scope};
use gateway::openapi::OPERATIONS;
use harness::{Client, Database, Server};
use serde_json::json;
use std::collections::BTreeSet;

/// Every route with the one scope that opens it. A route that is not here fails the test.
const MATRIX: &[(&str, &str, Scope)] = &[
    ("POST", "/runs", Scope::RunsWrite),
    ("GET", "/runs", Scope::RunsRead),
    ("POST", "/runs/batch", Scope::RunsWrite),
    ("GET", "/runs/{id}", Scope::RunsRead),
    ("PATCH", "/runs/{id}", Scope::RunsWrite),
    ("POST", "/runs/{id}/cancel", Scope::RunsWrite),
    ("POST", "/runs/{id}/replay", Scope::RunsWrite),
    ("GET", "/runs/{id}/output", Scope::RunsRead),
    ("GET", "/runs/{id}/events", Scope::RunsRead),
    ("GET", "/events", Scope::RunsRead),
    ("GET", "/tasks", Scope::RunsRead),
    ("GET", "/queues", Scope::RunsRead),
    ("POST", "/queues/{queue}/pause", Scope::QueuesWrite),
    ("POST", "/queues/{queue}/resume", Scope::QueuesWrite),
    ("GET", "/workers", Scope::RunsRead),
    ("POST", "/workers/lease", Scope::Workers),
    ("POST", "/workers/heartbeat", Scope::Workers),
    ("POST", "/workers/output", Scope::Workers),
    ("POST", "/workers/complete", Scope::Workers),
    ("POST", "/workers/fail", Scope::Workers),
    ("POST", "/workers/release", Scope::Workers),
    ("GET", "/buffer", Scope::BufferRead),
    ("GET", "/buffer/entries", Scope::BufferRead),
    ("POST", "/jobs", Scope::JobsWrite),
    ("GET", "/jobs", Scope::JobsRead),
    ("GET", "/jobs/{id}", Scope::JobsRead),
    ("POST", "/jobs/{id}/suspend", Scope::JobsWrite),
    ("POST", "/jobs/{id}/resume", Scope::JobsWrite),
    ("POST", "/jobs/{id}/cancel", Scope::JobsWrite),
    ("GET", "/jobs/{id}/events", Scope::JobsRead),
    ("GET", "/batches", Scope::JobsRead),
    ("GET", "/batches/{id}", Scope::JobsRead),
    ("POST", "/batches/{id}/cancel", Scope::JobsWrite),
    ("POST", "/batches/{id}/adopt", Scope::JobsWrite),
    ("POST", "/batches/{id}/abandon", Scope::JobsWrite),
    ("POST", "/sessions", Scope::RunsWrite),
    ("GET", "/sessions", Scope::RunsRead),
    ("GET", "/sessions/{id}", Scope::RunsRead),
    ("POST", "/sessions/{id}/transition", Scope::RunsWrite),
    ("POST", "/sessions/{id}/complete-round", Scope::RunsWrite),
    ("POST", "/sessions/{id}/close", Scope::RunsWrite),
    ("GET", "/sweeps", Scope::Admin),
    ("POST", "/sweeps/{kind}/run", Scope::Admin),
    ("GET", "/nodes", Scope::Admin),
    ("POST", "/nodes/{id}/drain", Scope::Admin),
    ("GET", "/actors", Scope::Admin),
    ("POST", "/actors/{name}/kill", Scope::Chaos),
    ("GET", "/audit", Scope::Admin),
    ("GET", "/autoscale", Scope::Admin),
];

#[test]
fn s2_every_route_is_in_the_matrix_with_the_scope_that_its_document_names() {
    let matrix: BTreeSet<_> = MATRIX.iter().map(|(method, route, _)| (*method, *route)).collect();
    let routes: BTreeSet<_> = ROUTES.iter().copied().collect();
    assert_eq!(matrix, routes, "a route without a row, or a row without a route");
    let documented: BTreeSet<_> =
        OPERATIONS.iter().map(|operation| (operation.method, operation.path, operation.scope)).collect();
    let rows: BTreeSet<_> = MATRIX.iter().map(|(method, route, scope)| (*method, *route, scope.word())).collect();
    assert_eq!(rows, documented);
}

/// A key of the right form and checksum, put together from parts of others.
fn forged(org_env: &str, id: &str, secret: &str) -> String {
    let body = format!("tg_{org_env}_{id}_{secret}");
    let crc = !body.bytes().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let letters = b"0123456789abcdefghjkmnpqrstvwxyz";
    let bits = u64::from(crc) << 3;
    let check: String = (0..7).map(|place| char::from(letters[(bits >> (30 - 5 * place)) as usize & 31])).collect();
    format!("{body}_{check}")
}

/// Every credential that must not open anything, by its name.
fn refused_credentials(server: &Server, good: &str) -> Vec<(&'static str, Option<String>)> {
    let others = key(server, "other/prod", ALL_SCOPES, &[]);
    let revoked = key(server, "acme/prod", ALL_SCOPES, &[]);
    tidegate(server, &["keys", "revoke", id_of(&revoked)]);
    let expired = key(server, "acme/prod", ALL_SCOPES, &["--expires", "1ms"]);
    let unknown = NewKey::generate(&"acme/prod".parse().expect("an env")).expect("randomness");
    assert_eq!(forged("acme.prod", id_of(good), secret_of(good)), good, "the forgery is like the real one");
    let last = if good.ends_with('0') { '1' } else { '0' };
    vec![
        ("no key", None),
        ("a wrong key", Some(unknown.token.reveal().to_owned())),
        ("a key with a typing error", Some(format!("{}{last}", &good[..good.len() - 1]))),
        ("a revoked key", Some(revoked)),
        ("an expired key", Some(expired)),
        ("an id with another's secret", Some(forged("acme.prod", id_of(good), secret_of(&others)))),
        ("another env's key under our name", Some(forged("acme.prod", id_of(&others), secret_of(&others)))),
        ("our key under another env's name", Some(forged("other.prod", id_of(good), secret_of(good)))),
    ]
}

#[test]
fn s2_and_rows_128_129_a_route_is_opened_by_its_scope_and_by_nothing_else() {
    let mut server = Server::on(Database::Sqlite).config(LATER).arg("--auth=keys");
    let good = key(&server, "acme/prod", ALL_SCOPES, &[]);
    let foreign = key(&server, "other/prod", ALL_SCOPES, &[]);
    let refused = refused_credentials(&server, &good);
    let of_scope: Vec<(Scope, String)> =
        Scope::ALL.into_iter().map(|scope| (scope, key(&server, "acme/prod", scope.word(), &[]))).collect();
    server.again();
    let run = caller(&server, &good).run(&json!({"task": "noop"}));
    server_is_idle(&mut caller(&server, &good));
    let mut first = None;
    for (what, credential) in &refused {
        let mut client = credential.as_ref().map_or_else(|| server.client(), |key| caller(&server, key));
        for (method, route, _) in MATRIX {
            let answer = ask(&mut client, method, route, &run);
            assert_eq!(answer.status, 401, "{method} {route} with {what}: {answer:?}");
            answer.is_problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {route} with {what}");
            let first = first.get_or_insert_with(|| unnamed(&answer));
            assert_eq!(unnamed(&answer), *first, "{method} {route}: nobody learns what is wrong with {what}");
        }
    }
    let mut elsewhere = caller(&server, &foreign).in_env("acme/prod");
    for (method, route, _) in MATRIX {
        let answer = ask(&mut elsewhere, method, route, &run);
        answer.is_problem(400, "invalid_field");
        assert_eq!(answer.json()["errors"][0]["code"], "other_env", "{method} {route}");
    }
    for (scope, key) in &of_scope {
        let mut client = caller(&server, key);
        for (method, route, needed) in MATRIX {
            if scope == needed {
                continue;
            }
            let answer = ask(&mut client, method, route, &run);
            answer.is_problem(403, "forbidden_scope");
            assert!(answer.field("detail").contains(needed.word()), "{method} {route}: {answer:?}");
        }
    }
    assert_eq!(server.number("SELECT COUNT(*) FROM run_records"), 1, "what was refused has done something");
    assert_eq!(server.number("SELECT COUNT(*) FROM pull_workers"), 0, "what was refused has done something");
    for (method, route, needed) in MATRIX {
        let key = of_scope.iter().find(|(scope, _)| scope == needed).map(|(_, key)| key).expect("a key of each scope");
        let answer = ask(&mut caller(&server, key), method, route, &run);
        let right = match *route {
            // The token of a lease that nobody holds.
            worker if worker.starts_with("/workers/") => [200, 409],
            // A run is no node, no job, no batch, and no session.
            "/nodes/{id}/drain" => [404, 404],
            other if ["/jobs/", "/batches/", "/sessions/"].iter().any(|of| other.starts_with(of)) => [404, 404],
            // Nobody has allowed it here.
            "/actors/{name}/kill" => [409, 409],
            // Nobody here has a key for the provider.
            "/jobs" if *method == "POST" => [409, 409],
            _ => [200, 201],
        };
        assert!(right.contains(&answer.status), "{method} {route}: {answer:?}");
    }
    server.stop();
}

#[test]
fn s2_who_has_no_key_does_not_learn_what_else_is_wrong() {
    let mut server = Server::on(Database::Sqlite).config(LATER).arg("--auth=keys").start();
    let mut client = server.client();
    for (method, route, _) in MATRIX {
        let (path, body) = request(method, route, "run_1");
        let more = if path.contains('?') { '&' } else { '?' };
        let answer = client.send(method, &format!("{path}{more}unknown=1"), body.as_deref());
        let answer = answer.unwrap_or_else(|error| panic!("{method} {route}: {error}"));
        assert_eq!(answer.status, 401, "{method} {route}: {answer:?}");
    }
    server.stop();
}

fn server_is_idle(client: &mut Client) {
    harness::eventually("the run has ended", || client.list("/runs?status=succeeded").len() == 1);
}
