//! Files that are no files, or do not stay what they were while they are read.

use crate::bad_input::{finishes, items, lines, put, unharmed, unhurried};
use harness::{Case, Database, Ended, Protocol};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// How long a loaded machine may take to come to the store.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whether somebody stands before the locked table.
const SOMEBODY_WAITS: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[test]
fn what_is_no_regular_file_is_refused() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    let path = case.input();
    let name = format!("cannot read {}: ", path.display());
    let refused = |why: &str| case.refuses(|| case.process(), 2, &[&name, why]);
    std::fs::remove_file(&path).expect("removed");
    refused("No such file");
    std::fs::create_dir(&path).expect("a directory");
    refused("it is a directory");
    std::fs::remove_dir(&path).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    refused("not a regular file");
    std::fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
    refused("not a regular file");
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(case.files(), Vec::<std::path::PathBuf>::new(), "nothing is left behind");
    unharmed(&case);
}

/// Changes the file after it has been judged and before it is taken in: the store stands still meanwhile.
fn changed_between_the_passes(case: &Case, change: impl FnOnce()) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut list = case.tidegate();
    list.args(["jobs", "list"]);
    assert_eq!(case.finish(list).code, Some(0), "the schema is made");
    let mut other = runtime.block_on(PgConnection::connect(&case.store)).expect("the database");
    let lock = sqlx::raw_sql("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE");
    runtime.block_on(lock.execute(&mut other)).expect("a lock");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| case.run());
        let arrival = async {
            while sqlx::query_scalar::<_, i64>(SOMEBODY_WAITS).fetch_one(&mut other).await.expect("a count") == 0 {}
        };
        let arrived = runtime.block_on(async { tokio::time::timeout(PATIENCE, arrival).await });
        if arrived.is_ok() {
            change();
        }
        runtime.block_on(sqlx::raw_sql("COMMIT").execute(&mut other)).expect("the lock is given back");
        let ended = running.join().expect("a run");
        assert!(arrived.is_ok(), "it never came to the store: {ended:?}");
        ended
    })
}

#[test]
fn a_file_that_changes_between_the_passes_is_refused_and_nothing_is_sent() {
    let good = items(5);
    let text = lines(&good).join("\n") + "\n";
    let changed = "changed while it was being read";
    let changes = [
        ("a line more", Some(text.clone() + &lines(&items(6))[5]), 5, changed),
        ("a line less", Some(lines(&good[..4]).join("\n")), 5, changed),
        ("a newline less", Some(text.trim_end().to_owned()), 5, changed),
        ("another question", Some(text.replace("question 3", "problem: 3")), 5, changed),
        ("a bad line", Some(text.replace("\"id-2\"", "7")), 2, "line 3: `custom_id` must be a string"),
        ("emptied", Some(String::new()), 5, changed),
        ("removed", None, 2, "cannot read"),
    ];
    for (name, content, code, why) in changes {
        let mut case = unhurried(Database::Postgres, Protocol::OpenAi, 1);
        put(&case, text.as_bytes());
        let ended = changed_between_the_passes(&case, || match &content {
            Some(content) => put(&case, content.as_bytes()),
            None => std::fs::remove_file(case.input()).expect("removed"),
        });
        assert_eq!(ended.code, Some(code), "{name}: {ended:?}");
        assert!(ended.stderr.contains(why), "{name}: {ended:?}");
        let ledger = case.account.ledger();
        assert_eq!((ledger.creates, ledger.uploads), (0, 0), "{name}");
        assert!(!case.out().exists(), "{name}");
        case.args.push("--restart".to_owned());
        finishes(&case, text.as_bytes(), &good);
        assert_eq!(case.account.ledger().distinct_items, 5, "{name}");
    }
}

#[test]
fn a_file_that_was_another_one_between_the_passes_is_bought_as_it_is() {
    let good = items(5);
    let text = lines(&good).join("\n") + "\n";
    let case = unhurried(Database::Postgres, Protocol::OpenAi, 1);
    put(&case, text.as_bytes());
    let other = text.replace("question 3", "problem: 3") + &lines(&items(6))[5];
    let ended = changed_between_the_passes(&case, || put(&case, other.as_bytes()));
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(case.account.ledger().creates, 0);
    // The file is as it was when it was judged, and the command is run again.
    put(&case, text.as_bytes());
    let again = case.run();
    assert_eq!(again.code, Some(0), "{again:?}");
    let results = std::fs::read_to_string(case.out()).expect("results");
    assert_eq!((results.lines().count(), case.account.ledger().distinct_items), (5, 5));
}
