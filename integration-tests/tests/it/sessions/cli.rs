//! `tidegate sessions`: the one that is meant is named, the program's own, or the only active one, and never guessed.

use super::{command, events, open, server};
use harness::{Database, Server};
use serde_json::{Value, json};
use std::process::Output;

const OWN: &str = "TIDEGATE_SESSION_ID";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn object(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn sessions(server: &Server, args: &[&str], env: &[(&str, &str)]) -> Output {
    command(server, &[&["sessions"], args, &["-o", "json"]].concat(), env)
}

#[test]
fn s002_q1_q3_the_only_active_session_is_taken_and_of_several_none() {
    let mut server = server(Database::Sqlite).start();
    let mut client = server.client();
    let none = sessions(&server, &["get"], &[]);
    assert_eq!(none.status.code(), Some(3), "s002_q2: {none:?}");
    let first = object(&sessions(&server, &["open", "review", "--metadata", r#"{"branch":"main"}"#], &[]));
    let first = first["id"].as_str().expect("an id").to_owned();
    let moved = sessions(&server, &["transition", "reviews"], &[]);
    assert_eq!(object(&moved)["phase"], "reviews");
    assert!(said(&moved).contains(&first) && said(&moved).contains("only active"), "{}", said(&moved));
    let second = open(&mut client, &json!({"type": "map"}));
    let before = (events(&mut client, &first), events(&mut client, &second));
    for args in [&["transition", "synthesis"][..], &["complete-round"], &["close", "--abort"], &["get"]] {
        let refused = sessions(&server, args, &[]);
        assert_eq!(refused.status.code(), Some(5), "{args:?}: {refused:?}");
        assert!(said(&refused).contains(&first) && said(&refused).contains(&second), "{}", said(&refused));
    }
    assert_eq!((events(&mut client, &first), events(&mut client, &second)), before, "nothing was written");
    let named = sessions(&server, &["transition", "synthesis", &first], &[(OWN, &second)]);
    assert_eq!(object(&named)["id"], first.as_str(), "what is named goes before all else");
    let done = sessions(&server, &["complete-round"], &[(OWN, &first)]);
    assert_eq!(object(&done)["id"], first.as_str(), "s002_q4: its own");
    assert!(said(&done).contains(OWN), "{}", said(&done));
    assert_eq!(events(&mut client, &second), ["opened"], "s002_q5: the other one has no part in it");
    object(&sessions(&server, &["close", &first], &[]));
    object(&sessions(&server, &["close", "--abort"], &[]));
    let listed = object(&sessions(&server, &["list", "--status", "closed"], &[]));
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    server.stop();
}

/// One that is set and not there is no reason to take another.
#[test]
fn a_program_whose_own_session_is_not_there_gets_no_other_one() {
    let mut server = server(Database::Sqlite).start();
    let mut client = server.client();
    let only = open(&mut client, &json!({"type": "review"}));
    let lost = sessions(&server, &["transition", "reviews"], &[(OWN, "ses_01m7z98h4682mz3gf7qqbcvmfg")]);
    assert_eq!(lost.status.code(), Some(3), "{lost:?}");
    assert_eq!(events(&mut client, &only), ["opened"]);
    server.stop();
}

#[test]
fn what_is_refused_is_refused_with_exit_5_and_says_what_would_be_allowed() {
    let mut server = server(Database::Sqlite).start();
    object(&sessions(&server, &["open", "review"], &[]));
    let early = sessions(&server, &["transition", "synthesis"], &[]);
    assert_eq!(early.status.code(), Some(5), "{early:?}");
    assert!(said(&early).contains("it may go to reviews"), "{}", said(&early));
    let foreign = sessions(&server, &["open", "nothing"], &[]);
    assert_eq!(foreign.status.code(), Some(2), "{foreign:?}");
    assert!(said(&foreign).contains("map, review"), "{}", said(&foreign));
    let file = server.dir.path().join("result.json");
    std::fs::write(&file, "[1]").expect("a file");
    let file = file.to_str().expect("a name");
    let odd = sessions(&server, &["complete-round", "--result", file], &[]);
    assert_eq!(odd.status.code(), Some(2), "s002_m7: {odd:?}");
    server.stop();
}
