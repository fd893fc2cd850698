//! Keys: made once, shown once, and ended.

use super::Server;
use harness::{Database, Ended, eventually};
use std::process::Stdio;

fn keys(server: &Server, args: &[&str]) -> Ended {
    server.bare().arg("keys").args(args).stdin(Stdio::null()).output().expect("the binary runs").into()
}

fn create(server: &Server, args: &[&str]) -> String {
    let ended = keys(server, &[&["create", "--env", "acme/prod"], args].concat());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let key = ended.stdout.trim_end().to_owned();
    assert!(key.starts_with("tg_acme.prod_") && !ended.stderr.contains(&key), "{ended:?}");
    key
}

fn id(key: &str) -> &str {
    key.split('_').nth(2).expect("the id")
}

#[test]
fn a_key_opens_its_env_for_its_scopes_until_it_is_revoked() {
    let mut server = Server::not_started(Database::Postgres);
    let writer = create(&server, &["--scope", "runs:read,runs:write", "--name", "ci"]);
    let reader = create(&server, &["--scope", "runs:read"]);
    server.serve(&["--listen", "127.0.0.1:0", "--auth", "keys"]);
    let refused = server.run(&["runs", "list"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("TIDEGATE_API_KEY"), "{refused:?}");
    server.key = Some(writer.clone());
    let run = server.json(&["runs", "create", "noop"]);
    assert_eq!(run["env"], "acme/prod");
    assert_eq!(server.run(&["runs", "list", "--env", "acme/dev"]).code, Some(2), "the key is of another env");
    server.key = Some(reader);
    assert_eq!(server.run(&["runs", "list"]).stdout.lines().count(), 1);
    let refused = server.run(&["runs", "create", "noop"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("runs:write"), "{refused:?}");
    server.key = Some(writer.clone());
    let revoked = keys(&server, &["revoke", id(&writer)]);
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    eventually("the server notices", || server.run(&["runs", "list"]).code == Some(4));
    let listed = keys(&server, &["list"]);
    assert!(listed.stdout.contains(&format!("{}\tacme/prod\trevoked\t", id(&writer))), "{listed:?}");
    let secret = writer.split('_').nth(3).expect("the secret");
    assert!(!listed.stdout.contains(secret) && !server.said().contains(secret), "{listed:?}");
}

#[test]
fn a_rotated_key_is_good_beside_its_successor_for_as_long_as_asked() {
    let mut server = Server::not_started(Database::Postgres);
    let old = create(&server, &["--scope", "runs:read", "--expires", "90d"]);
    server.serve(&["--listen", "127.0.0.1:0"]);
    let rotated = keys(&server, &["rotate", id(&old), "--grace", "1h"]);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let new = rotated.stdout.trim_end().to_owned();
    for key in [&old, &new] {
        server.key = Some(key.clone());
        assert_eq!(server.run(&["runs", "list"]).code, Some(0));
    }
    assert_eq!(keys(&server, &["rotate", id(&new), "--grace", "1ms"]).code, Some(0));
    eventually("the server notices", || server.run(&["runs", "list"]).code == Some(4));
    assert_eq!(keys(&server, &["rotate", id(&new)]).code, Some(5), "it has ended");
    assert_eq!(keys(&server, &["list"]).stdout.lines().filter(|line| line.contains("\tgood\t")).count(), 2);
}

#[test]
fn keys_of_a_sqlite_store_are_made_while_no_server_has_it() {
    let mut server = Server::not_started(Database::Sqlite);
    let key = create(&server, &["--scope", "runs:read", "--scope", "runs:write"]);
    server.serve(&["--listen", "127.0.0.1:0"]);
    let refused = keys(&server, &["list"]);
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(
        refused.stderr.contains(&server.pid().to_string()) && refused.stderr.contains("stop the server"),
        "{refused:?}"
    );
    server.key = Some(key);
    assert_eq!(server.run(&["runs", "create", "noop", "--wait"]).code, Some(0));
    let pasted = server.key.clone().map(|key| format!("{}x", &key[..key.len() - 1]));
    server.key = pasted.clone();
    let typo = server.run(&["runs", "list"]);
    assert_eq!(typo.code, Some(4), "{typo:?}");
    assert!(!typo.stderr.contains(&pasted.expect("a key")[20..]), "{typo:?}");
}

#[test]
fn a_key_that_could_do_nothing_or_is_of_no_env_is_not_made() {
    let server = Server::not_started(Database::Sqlite);
    for (args, words) in [
        (&["create", "--env", "acme", "--scope", "admin"][..], "ORG/ENV"),
        (&["create", "--env", "acme/prod", "--scope", "root"], "no scope"),
        (&["create", "--env", "acme/prod", "--scope", ""], "scope"),
        (&["create", "--env", "acme/prod"], "--scope"),
    ] {
        let ended = keys(&server, args);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(words) && ended.stdout.is_empty(), "{ended:?}");
    }
    assert_eq!(keys(&server, &["revoke", "0000000000000000"]).code, Some(3));
    assert_eq!(keys(&server, &["list"]).stdout, "");
}
