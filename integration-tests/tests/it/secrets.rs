//! A canary key must show up in nothing that the process leaves behind or says.

use harness::{Case, Database, Protocol};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use std::path::{Path, PathBuf};

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// The files that hold a PostgreSQL database, written out, and those of its write-ahead log.
fn files_of(url: &str) -> Vec<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (data, oid): (String, String) = runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await.expect("the database takes connections");
        sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await.expect("a superuser may checkpoint");
        let place = "SELECT current_setting('data_directory'), oid::TEXT FROM pg_database
            WHERE datname = current_database()";
        sqlx::query_as(place).fetch_one(&mut connection).await.expect("it has a place")
    });
    let folders = [format!("{data}/base/{oid}"), format!("{data}/pg_wal")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder").flatten());
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

#[test]
fn the_key_is_in_no_log_error_database_or_result() {
    for (database, protocol) in [
        (Database::Sqlite, Protocol::OpenAi),
        (Database::Sqlite, Protocol::Anthropic),
        (Database::Postgres, Protocol::OpenAi),
    ] {
        let mut case = Case::new(database, protocol, 9);
        case.env.push(("TIDEGATE_LOG".to_owned(), "trace".to_owned()));
        let mut said = Vec::new();
        for faults in [json!({"reject_keys": true}), json!({"lose_answers": 1, "cut_downloads": 1}), json!({})] {
            case.account.faults(&faults);
            let ended = case.run();
            said.push(format!("{}{}", ended.stdout, ended.stderr));
        }
        for args in [vec!["doctor", "--online"], vec!["batches", "list"], vec!["jobs", "list", "-o", "json"]] {
            let mut command = case.tidegate();
            command.args(&args);
            let ended = case.finish(command);
            said.push(format!("{}{}", ended.stdout, ended.stderr));
        }
        let key = case.account.key.as_bytes();
        let leaks = |bytes: &[u8]| bytes.windows(key.len()).any(|window| window == key);
        assert!(said.iter().all(|text| !leaks(text.as_bytes())), "the key was said aloud");
        assert!(said.iter().any(|text| text.contains("DEBUG") || text.contains("TRACE")), "the log was not detailed");
        let mut files = Vec::new();
        files_below(case.dir.path(), &mut files);
        if database == Database::Postgres {
            let own = files_of(&case.store);
            let holds = |bytes: &[u8]| bytes.windows(7).any(|window| window == b"line-8\"");
            assert!(
                own.iter().any(|file| std::fs::read(file).is_ok_and(|bytes| holds(&bytes))),
                "these are not its files"
            );
            files.extend(own);
        }
        assert!(files.len() >= 2, "{files:?}");
        for file in files {
            // The server renames and removes files of its log while we look.
            let Ok(bytes) = std::fs::read(&file) else { continue };
            assert!(!leaks(&bytes), "the key is in {}", file.display());
        }
    }
}
