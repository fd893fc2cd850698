//! A canary key must show up in nothing that the process leaves behind or says.

use harness::{Case, Database, Protocol};
use serde_json::json;
use std::path::Path;

fn files_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

#[test]
fn the_key_is_in_no_log_error_database_or_result() {
    for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
        let mut case = Case::new(Database::Sqlite, protocol, 9);
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
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            assert!(!leaks(&std::fs::read(&file).expect("a file")), "the key is in {}", file.display());
        }
    }
}
