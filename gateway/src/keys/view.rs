//! A key as it is shown: never what it could be used with, but for the one time when it is made.

use super::Made;
use crate::cli::Output;
use crate::exit::Failure;
use crate::output::{Cell, Column, List, Room, Row};
use crate::stdout::print;
use serde_json::{Value, json};
use storage::model::Timestamp;
use storage::store::ApiKey;

const COLUMNS: &[Column] = &[
    Column::new("ID", Room::Whole),
    Column::new("ENV", Room::Whole),
    Column::new("STATUS", Room::Whole),
    Column::new("SCOPES", Room::Cut),
    Column::new("CREATED", Room::Spare),
    Column::new("EXPIRES", Room::Spare),
    Column::new("LAST USED", Room::Spare),
    Column::new("NAME", Room::Cut),
];

/// Prints the key itself and nothing else to stdout, so that a script can keep it; or all of it as JSON.
pub fn made(made: &Made, output: Output) -> Result<(), Failure> {
    let (key, token) = (&made.key, made.secret.token.reveal());
    if output == Output::Table {
        print(&format!("{token}\n"))?;
    } else {
        let mut object = object(key, Timestamp::from_millis(key.created_at));
        object["key"] = Value::from(token);
        print(&format!("{object}\n"))?;
    }
    say!("key {} for {} may do {}; it is not shown again", key.id, key.env, key.scopes);
    Ok(())
}

pub fn is_good(key: &ApiKey, now: Timestamp) -> bool {
    status(key, now) == "good"
}

fn status(key: &ApiKey, now: Timestamp) -> &'static str {
    let past = |at: Option<i64>| at.is_some_and(|at| Timestamp::from_millis(at) <= now);
    match (past(key.revoked_at), past(key.expires_at)) {
        (true, _) => "revoked",
        (false, true) => "expired",
        (false, false) => "good",
    }
}

pub fn list(keys: &[ApiKey], now: Timestamp) -> List {
    let row = |key: &ApiKey| {
        let time = |at: Option<i64>| Cell::Time(at.map(Timestamp::from_millis));
        let cells = vec![
            Cell::text(&key.id),
            Cell::text(&key.env),
            Cell::text(status(key, now)),
            Cell::text(&key.scopes),
            time(Some(key.created_at)),
            time(key.expires_at),
            time(key.last_used_at),
            Cell::text(&key.name),
        ];
        Row { cells, json: object(key, now) }
    };
    List { columns: COLUMNS, rows: keys.iter().map(row).collect(), next_after: None }
}

fn object(key: &ApiKey, now: Timestamp) -> Value {
    let time = |at: Option<i64>| at.map(|at| Timestamp::from_millis(at).to_string());
    json!({
        "id": key.id,
        "env": key.env,
        "name": key.name,
        "status": status(key, now),
        "scopes": key.scopes.split(',').collect::<Vec<_>>(),
        "created_at": time(Some(key.created_at)),
        "expires_at": time(key.expires_at),
        "revoked_at": time(key.revoked_at),
        "last_used_at": time(key.last_used_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    fn key(expires_at: Option<i64>, revoked_at: Option<i64>) -> ApiKey {
        ApiKey {
            id: "k".to_owned(),
            env: "acme/prod".to_owned(),
            name: "ci".to_owned(),
            sha256: "d1935".to_owned(),
            scopes: "runs:read,workers".to_owned(),
            created_at: 0,
            expires_at,
            revoked_at,
            last_used_at: None,
        }
    }

    #[test]
    fn a_key_is_good_until_it_expires_or_is_revoked() {
        let now = Timestamp::from_millis(1_000);
        for (expires_at, revoked_at, word) in [
            (None, None, "good"),
            (Some(1_001), None, "good"),
            (Some(1_000), None, "expired"),
            (None, Some(1_000), "revoked"),
            (Some(1), Some(2), "revoked"),
        ] {
            assert_eq!(status(&key(expires_at, revoked_at), now), word);
        }
    }

    #[test]
    fn a_list_shows_nothing_that_could_be_used_as_a_key() {
        let keys = [key(None, None)];
        for output in [Output::Table, Output::Json, Output::Jsonl] {
            let text = list(&keys, Timestamp::from_millis(0)).render(output, Style::Plain);
            assert!(text.contains("acme/prod") && !text.contains("d1935"), "{text}");
        }
    }
}
