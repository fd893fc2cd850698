//! Bad settings: in the configuration file, in the environment, in a store's URL (catalogue rows 153–161, 167).

use crate::bad_input::unhurried;
use harness::{Case, Database, Protocol};
use std::path::PathBuf;
use std::process::Command;

fn case() -> Case {
    unhurried(Database::Sqlite, Protocol::OpenAi, 3)
}

/// A command that reads the configuration before it does anything else.
fn list(case: &Case, settings: &[(&str, &str)]) -> Command {
    let mut command = case.tidegate();
    command.args(["jobs", "list", "-o", "json"]).envs(settings.iter().copied());
    command
}

fn with_config(case: &Case, name: &str) -> Command {
    let mut command = list(case, &[]);
    command.arg("--config").arg(case.dir.path().join(name));
    command
}

fn put(case: &Case, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = case.dir.path().join(name);
    std::fs::write(&path, content).expect("a file");
    path
}

/// The provider has heard of nothing, there is no store, and the case's own job still runs.
#[track_caller]
fn unharmed(case: &Case) {
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.uploads), (0, 0));
    assert!(!case.dir.path().join("state.sqlite").exists(), "{:?}", case.files());
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    case.keeps_the_key(&ended);
}

#[test]
fn rows_153_154_and_161_a_bad_configuration_names_file_line_and_rule() {
    let case = case();
    let cases: [(&str, &[&str]); 22] = [
        ("[nodes]\n\nlease_secnds = 3\n", &["line 3", "`lease_secnds`", "did you mean `lease_seconds`?"]),
        ("[node]\nlease_seconds = 3\n", &["line 1", "unknown field `node`", "did you mean `nodes`?"]),
        ("[providers.openai]\nbaseurl = \"x\"\n", &["line 2", "`baseurl`", "did you mean `base_url`?"]),
        ("zzzzzz = 1\n", &["line 1", "unknown field `zzzzzz`"]),
        ("[nodes]\nlease_seconds = 3\nlease_seconds = 4\n", &["line 3", "duplicate key"]),
        ("[nodes]\n[sim]\n[nodes]\n", &["line 3", "duplicate key"]),
        ("[nodes]\nlease_seconds = \"3\"\n", &["line 2", "invalid type: string \"3\""]),
        ("[supervisor]\nmax_restarts = -1\n", &["line 2", "invalid value: integer `-1`"]),
        ("[providers.openai]\nexclusive = 1\n", &["line 2", "invalid type: integer `1`"]),
        ("[providers.openai]\npolicy = \"maybe\"\n", &["line 2", "unknown variant `maybe`", "`settle`"]),
        ("nodes = 3\n", &["line 1", "invalid type: integer `3`"]),
        ("[nodes\n", &["line 1"]),
        ("[nodes]\nlease_seconds = \n", &["line 2"]),
        ("[nodes]\nlease_seconds = 0\n", &["nodes.lease_seconds is 0; it must be between 0.5 and 3600"]),
        ("[nodes]\nlease_seconds = -1.5\n", &["nodes.lease_seconds is -1.5; it must be between 0.5 and 3600"]),
        ("[nodes]\nlease_seconds = nan\n", &["nodes.lease_seconds is NaN; it must be between"]),
        ("[supervisor]\nhang_seconds = inf\n", &["supervisor.hang_seconds is inf; it must be between 0.1 and 600"]),
        ("[sim]\nlatency_seconds = 1e300\n", &["sim.latency_seconds is", "it must be between 0 and 86400"]),
        ("[providers.groq]\npoll_seconds = 0\n", &["providers.groq.poll_seconds must be between 0.01 and 86400"]),
        ("[providers.groq]\nsettle_seconds = 1e9\n", &["providers.groq.settle_seconds must be between"]),
        ("[providers.groq]\nprotocol = \"grpc\"\n", &["providers.groq.protocol must be openai or anthropic"]),
        (
            "[nodes]\nlease_seconds = 0\n[supervisor]\nsweep_seconds = 0\n",
            &["nodes.lease_seconds", "supervisor.sweep_seconds"],
        ),
    ];
    for (text, words) in cases {
        let path = put(&case, "conf.toml", text);
        let before = case.files();
        let ended = case.refuses(|| with_config(&case, "conf.toml"), 2, words);
        if words[0].starts_with("line") {
            let named = format!("error: {}: at {}, column", path.display(), words[0]);
            assert!(ended.stderr.starts_with(&named), "{named}: {ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        }
        assert_eq!(case.files(), before);
    }
    // Also without being named, and over the wire that buys.
    put(&case, "tidegate.toml", "[nodes]\nlease_secnds = 3\n");
    case.refuses(|| case.process(), 2, &["tidegate.toml: at line 2, column 1: ", "did you mean `lease_seconds`?"]);
    std::fs::remove_file(case.dir.path().join("tidegate.toml")).expect("removed");
    unharmed(&case);
}

#[test]
fn row_154_marks_tabs_and_line_ends_in_a_configuration_are_taken() {
    let case = case();
    for text in ["\u{feff}[nodes]\r\n\tlease_seconds\t=\t3\t# why\r\n", "\u{feff}", "", "\n\n# nothing\n"] {
        put(&case, "conf.toml", text);
        let ended = case.finish(with_config(&case, "conf.toml"));
        assert_eq!(ended.code, Some(0), "{text:?}: {ended:?}");
    }
    put(&case, "conf.toml", b"[nodes]\nlease_seconds = 3 # \xff\n");
    case.refuses(|| with_config(&case, "conf.toml"), 2, &["conf.toml", "invalid utf-8"]);
}

#[test]
fn row_155_a_configuration_that_cannot_be_read_is_named() {
    let case = case();
    case.refuses(|| with_config(&case, "none.toml"), 2, &["cannot read the configuration", "none.toml: No such file"]);
    case.refuses(|| with_config(&case, "."), 2, &["cannot read the configuration", "it is a directory"]);
    put(&case, "big.toml", format!("# {}\n", "x".repeat(1 << 20)));
    case.refuses(|| with_config(&case, "big.toml"), 2, &["big.toml: it is larger than 1 MiB"]);
    std::os::unix::fs::symlink("/dev/zero", case.dir.path().join("endless.toml")).expect("a link");
    case.refuses(|| with_config(&case, "endless.toml"), 2, &["endless.toml: it is larger than 1 MiB"]);
    std::fs::remove_file(case.dir.path().join("endless.toml")).expect("removed");
    let here = case.dir.path().join("tidegate.toml");
    std::fs::create_dir(&here).expect("a directory");
    case.refuses(|| list(&case, &[]), 2, &["tidegate.toml: it is a directory"]);
    std::fs::remove_dir(&here).expect("removed");
    std::os::unix::fs::symlink("nowhere", &here).expect("a link");
    case.refuses(|| list(&case, &[]), 2, &["tidegate.toml: No such file"]);
    std::fs::remove_file(&here).expect("removed");
    put(&case, "prices.toml", "[nodes]\nlease_seconds = 3\n[prices]\nfile = \"none.toml\"\n");
    let priced = || {
        let mut command = case.process();
        command.arg("--config").arg(case.dir.path().join("prices.toml"));
        command
    };
    case.refuses(priced, 2, &["prices.file none.toml: No such file"]);
    unharmed(&case);
}

#[test]
fn row_157_an_empty_variable_counts_as_unset() {
    let mut case = case();
    let home = case.dir.path().join(".local/state/tidegate/tidegate.sqlite");
    let names = ["TIDEGATE_CONFIG", "TIDEGATE_LOG", "TIDEGATE_LOG_FORMAT", "XDG_STATE_HOME", "TIDEGATE_CHAOS"];
    let mut empty: Vec<_> = names.map(|name| (name, "")).to_vec();
    let ended = case.finish(list(&case, &empty));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!home.exists());
    empty.push(("TIDEGATE_STORE", ""));
    let ended = case.finish(list(&case, &empty));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(home.exists(), "the default place of the store");
    for unset in ["", "  "] {
        case.env.retain(|(name, _)| name != "OPENAI_API_KEY");
        case.env.push(("OPENAI_API_KEY".to_owned(), unset.to_owned()));
        case.refuses(|| case.process_with(&["--provider", "openai"]), 4, &["no key", "set OPENAI_API_KEY"]);
        let ended = case.run_with(&["--restart"]);
        assert_eq!((ended.code, &ended.summary()["provider"]), (Some(0), &"sim".into()), "{ended:?}");
        assert!(ended.stderr.contains("no key is set: using the simulated provider"), "{ended:?}");
    }
    assert_eq!(case.account.ledger().creates, 0);
}

#[test]
fn rows_153_157_and_158_a_bad_variable_is_named() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let case = case();
    let cases = [
        ("TIDEGATE_NODES__LEASE_SECONDS", "soon", "invalid type: string \"soon\""),
        ("TIDEGATE_NODES__LEASE_SECONDS", "", "invalid type: string \"\""),
        ("TIDEGATE_NODES__LEASE_SECONDS", "0", "nodes.lease_seconds is 0"),
        ("TIDEGATE_NODES__LEASE_SECONDS__X", "1", "invalid type: map"),
        ("TIDEGATE_NODES__LEASE_SECNDS", "1", "did you mean `lease_seconds`?"),
        ("TIDEGATE_LOG", "loud", "TIDEGATE_LOG is `loud`; use off, error, warn, info or debug"),
        ("TIDEGATE_LOG_FORMAT", "xml", "TIDEGATE_LOG_FORMAT is `xml`; use text or json"),
        ("TIDEGATE_FAILPOINT", "no.such", "TIDEGATE_FAILPOINT names `no.such`"),
        ("OPENAI_BASE_URL", "not a url", "not a url"),
    ];
    put(&case, "tidegate.toml", "[nodes]\nlease_seconds = 3\n");
    for (name, value, words) in cases {
        let bad = || {
            let mut command = case.process();
            command.env(name, value);
            command
        };
        let ended = case.refuses(bad, 2, &[words]);
        let is_rule = words.starts_with("nodes.") || name == "OPENAI_BASE_URL";
        assert!(is_rule || ended.stderr.contains(name), "{name} is not named: {ended:?}");
    }
    for name in ["TIDEGATE_NODES__LEASE_SECONDS", "TIDEGATE_LOG", "TIDEGATE_LOG_FORMAT", "TIDEGATE_STORE"] {
        let bad = || {
            let mut command = case.process();
            command.env(name, OsStr::from_bytes(b"\xff3"));
            command
        };
        case.refuses(bad, 2, &["error: "]);
    }
    assert_eq!(case.account.ledger().creates, 0);
}

#[test]
fn row_158_a_key_that_is_no_text_is_not_used() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let case = case();
    let mut command = case.process();
    command.env("OPENAI_API_KEY", OsStr::from_bytes(b"sk-\xff"));
    let ended = case.finish(command);
    assert_eq!(ended.code, Some(4), "whoever has set a key means to buy: {ended:?}");
    assert_eq!(case.account.ledger().creates, 0);
    case.keeps_the_key(&ended);
}

#[test]
fn row_160_a_bad_store_url_is_refused_and_its_password_is_not_repeated() {
    let case = case();
    let secret = "s3cr3t";
    let urls = [
        "nonsense",
        "sqlite:",
        "sqlite://",
        "mysql://me:s3cr3t@host/db",
        "postgres://me:s3cr3t@host:99999/db",
        "postgres://me:s3cr3t@host:port/db",
        "postgres://me:s3/s3cr3t@host/db",
        "postgres://me:a@s3cr3t@host:x/db",
        "POSTGRES://me:s3cr3t@host/db",
        "http://me:s3cr3t@host/",
        "postgres:me:s3cr3t@host/db",
        "me:s3cr3t@host/db",
        "postgres://host:x/db?password=s3cr3t",
    ];
    for url in urls {
        let bad = || {
            let mut command = list(&case, &[]);
            command.arg("--store").arg(url);
            command
        };
        let ended = case.refuses(bad, 2, &["is not a store: use sqlite:PATH or postgres://USER@HOST/DATABASE"]);
        assert!(!ended.stderr.contains(secret), "{url}: {ended:?}");
    }
    unharmed(&case);
}

#[test]
fn row_160_a_percent_encoded_password_works_and_shows_up_nowhere() {
    let mut case = unhurried(Database::Postgres, Protocol::OpenAi, 3);
    let password = "p%40w%3A%2F%25%3Fs3cr3t";
    case.store = case.store.replace("postgres@", &format!("postgres:{password}@"));
    case.env.push(("TIDEGATE_LOG".to_owned(), "debug".to_owned()));
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut command = list(&case, &[("PGPASSWORD", "other")]);
    command.args(["--store", &case.store.replace("/test_", "/no_such_")]);
    let missing = case.finish(command);
    assert_eq!(missing.code, Some(6), "{missing:?}");
    assert!(missing.stderr.contains("does not exist") && missing.stderr.contains("hint: check the database's name"));
    let mut command = list(&case, &[]);
    command.args(["--store", &case.store.replace(&format!("postgres:{password}@"), "nobody:s3cr3t@")]);
    let stranger = case.finish(command);
    assert_eq!(stranger.code, Some(4), "{stranger:?}");
    assert!(stranger.stderr.contains("hint: check the user and the password"), "{stranger:?}");
    for said in [&ended.stdout, &ended.stderr, &missing.stderr, &stranger.stderr] {
        assert!(!said.contains("s3cr3t") && !said.contains("p@w"), "{said}");
    }
    for path in case.files() {
        let bytes = std::fs::read(&path).expect("a file");
        assert!(!bytes.windows(6).any(|window| window == b"s3cr3t"), "{}", path.display());
    }
}

#[test]
fn row_160_a_database_that_nobody_serves_is_unreachable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let case = case();
    let store = format!("postgres://me:s3cr3t@{free}/db");
    let timed = case.in_shell("exec timeout 30 \"$@\"", &list(&case, &[("TIDEGATE_STORE", &store)]));
    let ended = case.finish(timed);
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stderr.contains("hint: check that the database runs"), "{ended:?}");
    assert!(!ended.stderr.contains("s3cr3t"), "{ended:?}");
    case.keeps_the_key(&ended);
}
