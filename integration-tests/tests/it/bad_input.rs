//! What is wrong with a file is found before anything is stored or sent (catalogue rows 141–146).

use harness::{Case, Database, Ended, Protocol};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};

/// A request by its id and its body.
pub type Item = (String, String);

/// A case with the lease of real life: nobody is killed here, and a loaded machine may take its time.
pub fn unhurried(database: Database, protocol: Protocol, lines: usize) -> Case {
    let mut case = Case::new(database, protocol, lines);
    case.env.clear();
    case
}

pub fn items(count: usize) -> Vec<Item> {
    (0..count).map(|n| (format!("id-{n}"), body(&format!("\"content\":\"question {n}\"")))).collect()
}

fn body(content: &str) -> String {
    format!(r#"{{"model":"gpt-4o-mini", "max_tokens":9,"messages":[{{"role":"user",{content}}}]}}"#)
}

fn line((id, body): &Item) -> String {
    let id = Value::from(id.as_str());
    format!(r#"{{"custom_id":{id},"method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
}

pub fn lines(items: &[Item]) -> Vec<String> {
    items.iter().map(line).collect()
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn put(case: &Case, content: &[u8]) {
    std::fs::write(case.input(), content).expect("the input file");
}

/// Ten good lines with something else in place of the seventh.
fn with_line_7(seventh: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = lines(&items(10)).into_iter().map(String::into_bytes).collect();
    lines[6] = seventh.to_vec();
    lines.join(&b'\n')
}

/// The file is refused with these words: nothing is stored, nothing is sent, no results are written.
#[track_caller]
fn refused(case: &Case, content: &[u8], words: &[&str]) -> Ended {
    put(case, content);
    let before = case.files();
    let name = format!("error: {}", case.input().display());
    let ended = case.refuses(|| case.process(), 2, &[&[name.as_str()], words].concat());
    assert_eq!(case.files(), before, "nothing is left behind");
    assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
    ended
}

/// The file is carried out: line for line the result of that line's very body.
#[track_caller]
pub fn finishes(case: &Case, content: &[u8], items: &[Item]) -> Ended {
    put(case, content);
    let ended = case.run();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let results = std::fs::read_to_string(case.out()).expect("results");
    let results: Vec<&str> = results.split_terminator('\n').collect();
    assert_eq!(results.len(), items.len(), "{results:#?}");
    for (result, (id, body)) in results.iter().zip(items) {
        let result: Value = serde_json::from_str(result).expect("a result line");
        assert_eq!(result["custom_id"], id.as_str());
        let answer = &result["response"]["body"]["choices"][0]["message"]["content"];
        assert!(answer.as_str().is_some_and(|text| text.ends_with(&digest(body)[..16])), "{id}: {answer}");
    }
    case.keeps_the_key(&ended);
    ended
}

/// The provider has heard of nothing, the store knows no job, and a good file works with the same store.
#[track_caller]
pub fn unharmed(case: &Case) {
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.uploads), (0, 0));
    let mut list = case.tidegate();
    list.args(["jobs", "list", "-o", "json"]);
    assert_eq!(case.finish(list).summary()["data"], serde_json::json!([]));
    let good = items(3);
    finishes(case, lines(&good).join("\n").as_bytes(), &good);
    assert_eq!(case.account.ledger().distinct_items, 3);
}

/// The digests of the bodies as the provider got them.
fn bought(case: &Case) -> Vec<String> {
    let mut stream = std::net::TcpStream::connect(case.account.addr()).expect("the provider");
    let key = &case.account.key;
    write!(stream, "GET /sim/ledger/items HTTP/1.0\r\nauthorization: Bearer {key}\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let items = answer.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut digests: Vec<String> = items.filter_map(|item| Some(item["sha"].as_str()?.to_owned())).collect();
    digests.sort();
    digests
}

fn line_ends_and_blank_lines(database: Database) {
    let case = unhurried(database, Protocol::OpenAi, 1);
    let mut good = items(6);
    good[2].1 = body("\"content\":\"a\u{2028}b\u{2029}c\u{85}d\"");
    let lines = lines(&good);
    let files = [
        ("no final newline", lines.join("\n")),
        ("final newline", lines.join("\n") + "\n"),
        ("CRLF", lines.join("\r\n") + "\r\n"),
        ("CRLF, no final one", lines.join("\r\n")),
        ("byte order mark", format!("\u{feff}{}\n", lines.join("\n"))),
        ("byte order mark, CRLF, blank lines", format!("\u{feff}\r\n{}\r\n\r\n\r\n", lines.join("\r\n\r\n"))),
        ("blank lines", format!("\n \n\t\n{}\n\n  \n", lines.join("\n\n \t\n"))),
        ("room around the lines", format!("  {}  \n", lines.join("\t\n  "))),
    ];
    for (name, content) in files {
        let summary = finishes(&case, content.as_bytes(), &good).summary();
        assert_eq!(summary["items"]["succeeded"], 6, "{name}");
    }
}

#[test]
fn row_141_line_ends_blank_lines_and_marks_change_no_result_on_sqlite() {
    line_ends_and_blank_lines(Database::Sqlite);
}

#[test]
fn row_141_line_ends_blank_lines_and_marks_change_no_result_on_postgres() {
    line_ends_and_blank_lines(Database::Postgres);
}

#[test]
fn row_141_a_file_without_a_request_is_refused() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    for content in ["", "\n", "\r\n \r\n", "\u{feff}", "\u{feff}\n\n"] {
        refused(&case, content.as_bytes(), &["holds no request"]);
    }
    unharmed(&case);
}

#[test]
fn row_142_a_line_over_the_cap_is_refused_by_its_number_in_bounded_memory() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    let good = lines(&items(2));
    let mut file = std::fs::File::create(case.input()).expect("the input file");
    writeln!(file, "{}", good[0]).expect("line 1");
    // A quarter of a GiB that is not on the disk, then the end of its line.
    let length = file.metadata().expect("its size").len() + (256 << 20);
    file.set_len(length).expect("a hole");
    let mut file = std::fs::OpenOptions::new().append(true).open(case.input()).expect("the input file");
    write!(file, "\n{}\nx\n", good[1]).expect("lines 3 and 4");
    let before = case.files();
    let within = |kib: u32| case.in_shell(&format!("ulimit -d {kib} && exec \"$@\""), &case.process());
    let words = ["2 bad lines", "line 2: longer than 33546240 bytes", "line 4: not JSON (byte 1)"];
    case.refuses(|| within(128 << 10), 2, &words);
    assert_eq!(case.files(), before);
    unharmed(&case);
}

/// What may stand in line 7, and what is said about it.
fn bad_lines() -> Vec<(Vec<u8>, &'static str)> {
    let edit = |from: &str, to: &str| {
        let good = line(&items(1)[0]);
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let nested = |levels| edit("\"max_tokens\":9", &format!("\"x\":{}{}", "[".repeat(levels), "]".repeat(levels)));
    let anthropic = r#"{"custom_id":"a","params":{"model":"m","max_tokens":1,"messages":[]}}"#.to_owned();
    let texts = [
        ("x".to_owned(), "not JSON (byte 1)"),
        (edit("}]}}", ""), "ends in the middle of its JSON"),
        ("[1]".to_owned(), "not a JSON object"),
        ("null".to_owned(), "not a JSON object"),
        (edit("}]}}", "}]}} {}"), "goes on after its JSON object"),
        (edit("{\"custom_id\"", "\u{feff}{\"custom_id\""), "not JSON (byte 1)"),
        (edit("question 0", "question \0"), "not JSON (byte"),
        (edit("question 0", "a\tb"), "not JSON (byte"),
        (edit("\"custom_id\":\"id-0\",", ""), "has no `custom_id`"),
        (edit("\"custom_id\":\"id-0\"", "\"custom_id\":\"a\",\"custom_id\":\"b\""), "has `custom_id` twice"),
        (edit("\"method\":\"POST\",", ""), "has no `method`"),
        (edit("POST", "GET"), "`method` must be \"POST\""),
        (edit("/v1/chat/completions", "/v1/chat"), "`url` must be a batch endpoint"),
        (edit("/v1/chat/completions", "https://api.openai.com/v1/chat/completions"), "`url` must be a batch endpoint"),
        (edit("\"model\":\"gpt-4o-mini\"", "\"x\":1"), "`body.model` must be a non-empty string"),
        (edit("\"gpt-4o-mini\"", "\"\""), "`body.model` must be a non-empty string"),
        (edit("\"max_tokens\":9", "\"stream\":true"), "`body.stream` must not be true in a batch"),
        (edit("\"max_tokens\":9", "\"model\":\"gpt-4o\""), "has `model` twice in its `body`"),
        (edit("\"method\"", "\"\\u001b[2J\":1,\"method\""), "has the unknown key \"\\u{1b}[2J\""),
        (anthropic, "in Anthropic form, but line 1 made this a file in OpenAI form"),
        (edit("\"body\"", "\"params\":{},\"body\""), "has both `params` (Anthropic form) and `body` (OpenAI form)"),
        (nested(130), "nested deeper than 127 levels"),
        (nested(100_000), "nested deeper than 127 levels"),
        ("[".repeat(1_000_000), "not a JSON object"),
        ("{\"a\":".repeat(300_000), "line 7: "),
    ];
    let mut lines: Vec<_> = texts.into_iter().map(|(text, why)| (text.into_bytes(), why)).collect();
    lines.push((b"{\"custom_id\":\"\xff\"}".to_vec(), "not valid UTF-8 (byte 15)"));
    // As an editor would save it that is set to UTF-16.
    let utf16 = line(&items(1)[0]).encode_utf16().flat_map(u16::to_le_bytes).filter(|byte| *byte != b'\n').collect();
    lines.push((utf16, "not JSON (byte 2)"));
    lines
}

fn line_7_of_10(database: Database) {
    let case = unhurried(database, Protocol::OpenAi, 1);
    for (bad, why) in bad_lines() {
        let ended = refused(&case, &with_line_7(&bad), &[": 1 bad line\nline 7: ", why]);
        assert_eq!(ended.stderr.lines().count(), 2, "{ended:?}");
        assert!(ended.stderr.len() < 1_000, "little of the file is repeated: {} bytes", ended.stderr.len());
    }
    unharmed(&case);
    // A store that holds a job already gets no second one.
    refused(&case, &with_line_7(b"x"), &["line 7: not JSON (byte 1)"]);
    assert_eq!(case.account.ledger().creates, 3, "of the good file");
}

#[test]
fn row_143_line_7_of_10_refuses_all_ten_on_sqlite() {
    line_7_of_10(Database::Sqlite);
}

#[test]
fn row_143_line_7_of_10_refuses_all_ten_on_postgres() {
    line_7_of_10(Database::Postgres);
}

#[test]
fn row_143_anthropic_lines_have_their_own_rules() {
    let case = unhurried(Database::Sqlite, Protocol::Anthropic, 1);
    let with = |rest: &str| format!(r#"{{"custom_id":"b","params":{{"model":"claude-sonnet-4-5"{rest}}}}}"#);
    let good = r#"{"custom_id":"a","params":{"model":"claude-sonnet-4-5","max_tokens":1,"messages":[]}}"#;
    let tokens = "`params.max_tokens` must be a whole number, at least 1";
    let mut cases = vec![
        (with(",\"max_tokens\":1,\"stream\":true"), "`params.stream` must not be true in a batch"),
        (with(""), tokens),
        (line(&items(1)[0]), "in OpenAI form, but line 1 made this a file in Anthropic form"),
        (r#"{"custom_id":"b","params":[]}"#.to_owned(), "`params` must be an object"),
    ];
    cases.extend(["0", "-1", "1.5", "1e3", "\"9\"", "null"].map(|n| (with(&format!(",\"max_tokens\":{n}")), tokens)));
    for (bad, why) in cases {
        refused(&case, format!("{good}\n{bad}\n").as_bytes(), &["line 2: ", why]);
    }
    let ledger = case.account.ledger();
    assert_eq!((ledger.creates, ledger.uploads), (0, 0));
}

#[test]
fn row_143_a_hundred_bad_lines_are_shown_and_the_rest_is_counted() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    for (bad, heading, more) in
        [(100, "100 bad lines", None), (101, "101 bad lines", Some(1)), (5_000, "5000 bad lines", Some(4_900))]
    {
        let content = format!("{}\n{}", line(&items(1)[0]), "x\n".repeat(bad));
        let ended = refused(&case, content.as_bytes(), &[heading, "line 2: not JSON", "line 101: not JSON"]);
        assert_eq!(ended.stderr.lines().filter(|said| said.starts_with("line ")).count(), 100);
        let last = ended.stderr.lines().next_back().unwrap_or_default();
        match more {
            Some(more) => assert_eq!(last, format!("… and {more} more")),
            None => assert!(last.starts_with("line 101: "), "{last}"),
        }
    }
    unharmed(&case);
}

#[test]
fn row_144_a_doubled_id_names_both_lines() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    let good = lines(&items(9));
    let again = |written: &str| line(&items(1)[0]).replace("id-0", written).replace("question 0", "another");
    for written in ["id-3", "\\u0069d-3", "id\\u002d3"] {
        let content = format!("{}\n\n{}\n{}\n", good.join("\n"), again(written), again(written));
        let words = ["2 bad lines", "line 11: custom_id \"id-3\" is already on line 4", "line 12: custom_id \"id-3\""];
        refused(&case, content.as_bytes(), &words);
    }
    let twice = format!("{0}\n{0}\n", good[0]);
    refused(&case, twice.as_bytes(), &["line 2: custom_id \"id-0\" is already on line 1"]);
    unharmed(&case);
}

#[test]
fn row_145_an_id_that_cannot_be_kept_is_refused() {
    let case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    let with = |id: &str| line(&items(1)[0]).replace("\"id-0\"", id);
    let (long, wide) = (format!("\"{}\"", "x".repeat(513)), format!("\"{}\"", "é".repeat(257)));
    let cases = [
        ("\"\"", "`custom_id` must not be empty"),
        (long.as_str(), "`custom_id` is longer than 512 bytes"),
        (wide.as_str(), "`custom_id` is longer than 512 bytes"),
        ("7", "`custom_id` must be a string"),
        ("null", "`custom_id` must be a string"),
        ("\"a\\u0000b\"", "`custom_id` holds a character that cannot be stored"),
        ("\"\\ud800\"", "`custom_id` holds a character that cannot be stored"),
    ];
    for (id, why) in cases {
        refused(&case, with(id).as_bytes(), &["line 1: ", why]);
    }
    unharmed(&case);
}

fn odd_ids(database: Database) {
    let case = unhurried(database, Protocol::OpenAi, 1);
    let ids = ["x".repeat(512), " ".to_owned(), "../../etc/passwd".to_owned(), "a\"b\\c\n\t\u{1}".to_owned()];
    let more =
        ["é\u{301}🦀\u{200b}", "'; DROP TABLE runs; --", "%s%n{}$1", "null", "\u{2028}\u{feff}"].map(str::to_owned);
    let good: Vec<Item> = ids.into_iter().chain(more).zip(items(9)).map(|(id, (_, body))| (id, body)).collect();
    finishes(&case, lines(&good).join("\n").as_bytes(), &good);
    assert_eq!(case.account.ledger().distinct_items, 9);
}

#[test]
fn row_145_odd_ids_come_back_as_they_were_on_sqlite() {
    odd_ids(Database::Sqlite);
}

#[test]
fn row_145_odd_ids_come_back_as_they_were_on_postgres() {
    odd_ids(Database::Postgres);
}

#[test]
fn row_146_more_lines_than_a_batch_takes_are_split() {
    let mut case = unhurried(Database::Sqlite, Protocol::OpenAi, 1);
    case.args.retain(|word| word != "--max-batch-requests" && word != "1");
    let (many, three) = (items(50_001), items(3));
    put(&case, lines(&many).join("\n").as_bytes());
    let plan = case.run_with(&["--dry-run"]).summary();
    assert_eq!((&plan["items"], &plan["batches"]), (&50_001.into(), &2.into()));
    assert_eq!(case.account.ledger().creates, 0);
    case.args.extend(["--max-batch-requests".to_owned(), "1".to_owned()]);
    let summary = finishes(&case, lines(&three).join("\n").as_bytes(), &three).summary();
    assert_eq!(summary["batches"]["created"], 3);
    assert!(case.account.ledger().batches.iter().all(|batch| batch.requests == 1));
}

fn byte_for_byte(database: Database) {
    let case = unhurried(database, Protocol::OpenAi, 1);
    let texts = [
        r#""content":"x","a":1e999,"b":-0.0,"c":1E+2"#,
        r#""content":"x","a":123456789012345678901234567890,"b":0.1000000000000000055511151231257827"#,
        r#""content":"\u0000 \ud800 \/ \u00e9 é""#,
        r#""z":1,"content" : "x" ,  "a":2,"a":3"#,
        "\"content\":\"\u{2028}\u{85}\u{7f}\u{feff}\"",
    ];
    let good: Vec<Item> = texts.iter().enumerate().map(|(n, text)| (n.to_string(), body(text))).collect();
    finishes(&case, lines(&good).join("\r\n").as_bytes(), &good);
    let mut expected: Vec<String> = good.iter().map(|(_, body)| digest(body)).collect();
    expected.sort();
    assert_eq!(bought(&case), expected, "the provider got these very bytes");
}

#[test]
fn numbers_and_escapes_of_a_body_arrive_byte_for_byte_from_sqlite() {
    byte_for_byte(Database::Sqlite);
}

#[test]
fn numbers_and_escapes_of_a_body_arrive_byte_for_byte_from_postgres() {
    byte_for_byte(Database::Postgres);
}
