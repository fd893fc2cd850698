//! S4 to S6: what a key is made of, what is stored of it, how it ends, and what a typing error costs.

use super::{ALL_SCOPES, caller, id_of, key, secret_of, tidegate, unnamed};
use harness::{Database, OwnPostgres, Server, eventually};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn s4_a_key_has_256_random_bits_and_only_its_digest_is_stored() {
    let mut server = Server::on(Database::Sqlite).arg("--auth=keys");
    let keys: Vec<String> = (0..3).map(|_| key(&server, "acme/prod", ALL_SCOPES, &["--name", "ci"])).collect();
    for key in &keys {
        let parts: Vec<&str> = key.split('_').collect();
        let [prefix, env, id, secret, check] = parts[..] else { panic!("{key} has other parts") };
        let lengths = [id.len(), secret.len(), check.len()];
        // 52 characters of 5 bits hold 256 of them.
        assert_eq!((prefix, env, lengths), ("tg", "acme.prod", [16, 52, 7]));
        let digest: String = Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect();
        let stored = server.rows(&format!("SELECT sha256, env FROM api_keys WHERE id = '{id}'"));
        assert_eq!(stored, [vec![Some(digest), Some("acme/prod".to_owned())]]);
    }
    let secrets: std::collections::BTreeSet<&str> = keys.iter().map(|key| secret_of(key)).collect();
    assert_eq!(secrets.len(), 3, "two keys are alike");
    let rotated: Value = {
        let text = tidegate(&server, &["keys", "rotate", id_of(&keys[2]), "-o", "json"]);
        serde_json::from_str(&text).expect("a key")
    };
    let rotated = rotated["key"].as_str().expect("the new key").to_owned();
    for args in [&["keys", "list"][..], &["keys", "list", "-o", "json"], &["keys", "revoke", id_of(&keys[1])]] {
        let said = tidegate(&server, args);
        assert!(keys.iter().chain([&rotated]).all(|key| !said.contains(secret_of(key))), "{args:?}: {said}");
    }
    server.again();
    let mut client = caller(&server, &keys[0]);
    client.get("/runs").is(200);
    client.get("/nodes").is(200);
    server.stop();
    for entry in std::fs::read_dir(server.dir.path()).expect("the store's folder").flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        let kept = keys.iter().chain([&rotated]).any(|key| holds(&bytes, secret_of(key)));
        assert!(!kept, "a secret is in {}", entry.path().display());
    }
    assert!(!server.lines().iter().any(|line| keys.iter().any(|key| line.contains(secret_of(key)))));
}

#[test]
fn s4_and_row_127_a_credential_is_refused_alike_whatever_is_wrong_with_it() {
    let mut server = Server::on(Database::Sqlite).arg("--auth=keys");
    let good = key(&server, "acme/prod", ALL_SCOPES, &[]);
    server.again();
    let mut first = None;
    let changed = |at: usize| {
        let mut text: Vec<char> = good.chars().collect();
        text[at] = if text[at] == 'x' { 'y' } else { 'x' };
        text.into_iter().collect::<String>()
    };
    let wrong = (0..good.len()).step_by(3).map(changed).chain(["tg_".to_owned(), good.to_uppercase(), good.repeat(2)]);
    for credential in wrong {
        let answer = caller(&server, &credential).get("/runs");
        answer.is_problem(401, "unauthenticated");
        let first = first.get_or_insert_with(|| unnamed(&answer));
        assert_eq!(unnamed(&answer), *first);
        assert!(!answer.text().contains(secret_of(&good)), "{answer:?}");
    }
    caller(&server, &good).get("/runs").is(200);
    server.stop();
}

#[test]
fn s5_two_keys_live_at_once_and_a_revoked_one_ends_on_all_nodes_within_five_seconds() {
    let mut first = Server::on(Database::Postgres).arg("--auth=keys");
    let old = key(&first, "acme/prod", ALL_SCOPES, &[]);
    let new = tidegate(&first, &["keys", "rotate", id_of(&old), "--grace", "1h"]);
    first.again();
    let mut second = Server::on(Database::Postgres).with_store(&first.store).arg("--auth=keys").start();
    for key in [&old, &new] {
        for server in [&first, &second] {
            caller(server, key).get("/runs").is(200);
        }
    }
    tidegate(&first, &["keys", "revoke", id_of(&old)]);
    #[expect(clippy::disallowed_methods, reason = "spans how long a revoked key is good")]
    let revoked_at = Instant::now();
    for server in [&first, &second] {
        let mut client = caller(server, &old);
        eventually("the revoked key is refused", || client.get("/runs").status == 401);
    }
    let took = revoked_at.elapsed();
    println!("a revoked key was good on two nodes for {took:.1?}");
    assert!(took <= Duration::from_secs(5), "a revoked key was good for {took:?}");
    for server in [&first, &second] {
        caller(server, &new).get("/runs").is(200);
    }
    second.stop();
    first.stop();
}

#[test]
fn s5_the_use_of_a_key_is_remembered_once_a_minute_at_most() {
    let mut server = Server::on(Database::Sqlite).arg("--auth=keys");
    let key = key(&server, "acme/prod", ALL_SCOPES, &[]);
    let used = |server: &Server| server.rows("SELECT last_used_at FROM api_keys")[0][0].clone();
    assert_eq!(used(&server), None);
    server.again();
    caller(&server, &format!("{}x", &key[..key.len() - 1])).get("/runs").is_problem(401, "unauthenticated");
    caller(&server, &key).get("/runs").is(200);
    eventually("its use is remembered", || used(&server).is_some());
    let remembered: i64 = used(&server).and_then(|text| text.parse().ok()).expect("a time");
    // (how long ago it was used, as the store has it when a server starts; whether that is remembered anew)
    for (ago, anew) in [(50_000, false), (61_000, true)] {
        server.stop();
        let before = remembered - ago;
        server.execute(&format!("UPDATE api_keys SET last_used_at = {before}"));
        server.again();
        let mut client = caller(&server, &key);
        (0..20).for_each(|_| drop(client.get("/runs").is(200)));
        if anew {
            eventually("its use is remembered anew", || used(&server) != Some(before.to_string()));
        }
        // Whatever was begun is written before the store is closed.
        server.stop();
        assert_eq!(used(&server) != Some(before.to_string()), anew, "{ago} ms ago");
        server.again();
    }
    server.stop();
}

#[test]
fn s6_a_typing_error_is_refused_without_the_database_and_an_unknown_key_is_not() {
    let mut cluster = OwnPostgres::start();
    let mut server = Server::on(Database::Postgres)
        .with_store(&cluster.url())
        .set("nodes.lease_seconds", 600)
        .arg("--auth=keys")
        // What the outage itself gives rise to.
        .expecting("the lease cannot be renewed");
    let good = key(&server, "acme/prod", ALL_SCOPES, &[]);
    let unknown = gateway::http::keys::NewKey::generate(&"acme/prod".parse().expect("an env")).expect("randomness");
    server.again();
    cluster.crash();
    for at in [3, 14, 40, good.len() - 1] {
        let mut wrong: Vec<char> = good.chars().collect();
        wrong[at] = if wrong[at] == 'x' { 'y' } else { 'x' };
        caller(&server, &wrong.into_iter().collect::<String>()).get("/runs").is_problem(401, "unauthenticated");
    }
    caller(&server, unknown.token.reveal()).get("/runs").is_problem(503, "store_unavailable");
    cluster.again();
    eventually("the server serves again", || caller(&server, &good).get("/runs").status == 200);
    server.stop();
}
