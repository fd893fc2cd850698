//! `tidegate config`: what is set and by whom, what a setting is, whether a file is right, and a file to begin with.

use crate::cli::{Common, ConfigCommand};
use crate::config::Config;
use crate::config::reference::{self, Known, NAME, all, general, is_named, is_reloaded, leaves, written};
use crate::config::sources::{Origin, SWITCHES, Sources, parse_key};
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Record, Room, Row, note};
use crate::stdout::print;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use storage::model::{Clock, SystemClock};

const HIDDEN: &str = "****";

const SHOWN: &[Column] =
    &[Column::new("KEY", Room::Whole), Column::new("VALUE", Room::Spare), Column::new("FROM", Room::Whole)];
const EXPLAINED: &[Column] = &[
    Column::new("KEY", Room::Whole),
    Column::new("TYPE", Room::Whole),
    Column::new("DEFAULT", Room::Whole),
    Column::new("WHAT", Room::Spare),
];

pub fn run(command: &ConfigCommand, common: &Common) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Show => show(common),
        ConfigCommand::Explain { key } => explain(key, common),
        ConfigCommand::Validate { file } => validate(file.as_deref().or(common.config.as_deref())),
        ConfigCommand::Init { out: None } => print(reference::COMMENTED).map(|()| Exit::Done),
        ConfigCommand::Init { out: Some(out) } => init(out),
    }
}

fn show(common: &Common) -> Result<Exit, Failure> {
    let sources = Sources::read(common.config.as_deref())?;
    let config = sources.config()?;
    let is_left_away = |keys: &[String], value: &Value| {
        let is_empty = value.is_null() || *value == json!("") || *value == json!([]) || *value == json!({});
        is_named(&keys[0]) && is_empty
    };
    let rows = leaves(&config).into_iter().filter(|(keys, value)| !is_left_away(keys, value)).map(|(keys, value)| {
        let (value, origin) = (hidden(&keys, value), sources.origin(&keys));
        let cells = vec![Cell::text(written(&keys)), value_cell(Some(&value)), Cell::text(origin.to_string())];
        let (from, file, line, variable) = parts(&origin);
        let json = json!({ "key": written(&keys), "value": value,
            "from": from, "file": file, "line": line, "variable": variable });
        Row { cells, json }
    });
    List { columns: SHOWN, rows: rows.collect(), next_after: None }.print(common.output, SystemClock.now())?;
    Ok(Exit::Done)
}

fn parts(origin: &Origin) -> (&'static str, Option<String>, Option<usize>, Option<&str>) {
    match origin {
        Origin::Default => ("default", None, None, None),
        Origin::File { path, line } => ("file", Some(path.display().to_string()), Some(*line), None),
        Origin::Env(name) => ("environment", None, None, Some(name)),
    }
}

fn value_cell(value: Option<&Value>) -> Cell {
    Cell::maybe(value.filter(|value| !value.is_null()).map(Value::to_string))
}

/// Without what may be a secret: the environments and headers of tasks, and what of a URL is for its server only.
fn hidden(keys: &[String], value: Value) -> Value {
    let last = keys.last().map(String::as_str);
    match value {
        Value::Object(map) if keys[0] == "tasks" && matches!(last, Some("env" | "headers")) => {
            map.into_iter().map(|(name, _)| (name, Value::from(HIDDEN))).collect()
        }
        Value::String(url) if matches!(last, Some("url" | "base_url")) => Value::from(public_part(&url)),
        value => value,
    }
}

fn public_part(url: &str) -> String {
    let (rest, query) = url.split_once(['?', '#']).map_or((url, ""), |(rest, _)| (rest, "?****"));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    let (authority, path) = rest.split_once('/').map_or((rest, String::new()), |(a, path)| (a, format!("/{path}")));
    let authority = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => authority.to_owned(),
    };
    let divider = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{divider}{authority}{path}{query}")
}

fn explain(key: &str, common: &Common) -> Result<Exit, Failure> {
    let known = all();
    let keys = parse_key(key).unwrap_or_default();
    let wanted = general(&keys);
    let under: Vec<_> = known.iter().filter(|known| !wanted.is_empty() && known.keys.starts_with(&wanted)).collect();
    let now = SystemClock.now();
    match under.as_slice() {
        [] => return Err(unknown(key, &known)),
        [one] if one.keys == wanted => {
            // What a setting is can be told while the configuration is wrong; what it is now cannot.
            let sources = Sources::read(common.config.as_deref())?;
            let config = sources.config();
            record(one, &keys, config.as_ref().ok(), &sources).print(common.output, now)?;
            config?;
        }
        several => {
            let rows = several.iter().map(|known| row(known)).collect();
            List { columns: EXPLAINED, rows, next_after: None }.print(common.output, now)?;
        }
    }
    Ok(Exit::Done)
}

fn row(known: &Known) -> Row {
    let key = written(&known.keys);
    let json = json!({ "key": key, "type": known.kind, "default": known.default, "what": known.what });
    let cells =
        vec![Cell::text(key), Cell::text(known.kind), value_cell(known.default.as_ref()), Cell::text(&known.what)];
    Row { cells, json }
}

fn record(known: &Known, keys: &[String], config: Option<&Config>, sources: &Sources) -> Record {
    let value = config.and_then(|config| leaves(config).into_iter().find(|(key, _)| key == keys));
    let value = value.map(|(keys, value)| hidden(&keys, value)).filter(|value| !value.is_null());
    let from = config.map(|_| sources.origin(keys));
    let variable = variable(keys);
    let key = written(keys);
    let applies = if is_reloaded(keys) { "on SIGHUP" } else { "at the next start" };
    Record {
        json: json!({ "key": key, "what": known.what, "type": known.kind, "default": known.default,
            "variable": variable, "applies": applies, "value": value, "from": from.as_ref().map(Origin::to_string) }),
        fields: vec![
            ("key", Cell::text(key)),
            ("what", Cell::text(&known.what)),
            ("type", Cell::text(known.kind)),
            ("default", value_cell(known.default.as_ref())),
            ("variable", Cell::maybe(variable)),
            ("applies", Cell::text(applies)),
            ("value", value_cell(value.as_ref())),
            ("from", Cell::maybe(from.map(|from| from.to_string()))),
        ],
        sections: Vec::new(),
    }
}

/// The variable of the environment that sets it; `None` where no name of a variable could.
fn variable(keys: &[String]) -> Option<String> {
    if let Some((switch, _)) = SWITCHES.iter().find(|(_, switched)| keys == switched) {
        return Some((*switch).to_owned());
    }
    let fits = |key: &String| {
        let is_plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        key == NAME || (is_plain && !key.contains("__") && !key.starts_with('_') && !key.ends_with('_'))
    };
    keys.iter().all(fits).then(|| format!("TIDEGATE_{}", keys.join("__").to_ascii_uppercase()))
}

fn unknown(key: &str, known: &[Known]) -> Failure {
    let near = |known: &Known| {
        let name = written(&known.keys);
        // Whoever does not know where it stands gives its last part only.
        let last = known.keys.last().map_or("", String::as_str);
        (strsim::jaro_winkler(key, &name).max(strsim::jaro_winkler(key, last)), name)
    };
    let nearest = known.iter().map(near).max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.7);
    let failure = Failure::usage(format!("there is no setting `{key}`"));
    match nearest {
        Some((_, name)) => failure.hint(format!("did you mean `{name}`?")),
        None => failure.hint("`tidegate config init` prints them all"),
    }
}

/// As any command would read it, with this environment laid over it.
fn validate(file: Option<&Path>) -> Result<Exit, Failure> {
    let sources = Sources::read(file)?;
    sources.config()?;
    let of = match sources.file() {
        Some(path) => path.display().to_string(),
        None => "no file: all defaults".to_owned(),
    };
    let laid: Vec<_> = sources.laid_over().collect();
    let over = if laid.is_empty() { String::new() } else { format!(", with {}", laid.join(", ")) };
    note(format_args!("{of}{over}: in order"));
    Ok(Exit::Done)
}

fn init(out: &Path) -> Result<Exit, Failure> {
    let shown = out.display();
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(Exit::Conflict, format!("--out {shown}: it exists already"))
            .hint("name another file; none is overwritten"),
        _ => Failure::usage(format!("--out {shown}: cannot write it: {error}")),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(out).map_err(cannot)?;
    file.write_all(reference::COMMENTED.as_bytes()).map_err(cannot)?;
    note(format_args!("{shown} has every setting with its default; start with `tidegate serve --config {shown}`"));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &str) -> Vec<String> {
        parse_key(key).expect(key)
    }

    #[test]
    fn what_may_be_a_secret_is_hidden() {
        for (url, shown) in [
            ("https://example.com/hook", "https://example.com/hook"),
            ("https://me:secret@example.com:8/hook/x", "https://****@example.com:8/hook/x"),
            ("https://example.com/hook?token=secret", "https://example.com/hook?****"),
            ("https://me@x@example.com", "https://****@example.com"),
            ("me:secret@example.com/x?y#z", "****@example.com/x?****"),
        ] {
            assert_eq!(hidden(&keys("tasks.a.url"), json!(url)), json!(shown));
            assert_eq!(hidden(&keys("providers.a.base_url"), json!(url)), json!(shown));
        }
        let env = json!({ "TOKEN": "secret" });
        assert_eq!(hidden(&keys("tasks.a.env"), env.clone()), json!({ "TOKEN": "****" }));
        assert_eq!(hidden(&keys("tasks.a.headers"), env.clone()), json!({ "TOKEN": "****" }));
        assert_eq!(hidden(&keys("sessions.a.edges"), env.clone()), env);
    }

    #[test]
    fn each_setting_that_a_variable_can_set_names_it() {
        for (key, name) in [
            ("nodes.lease_seconds", Some("TIDEGATE_NODES__LEASE_SECONDS")),
            ("sweeps.enabled", Some("TIDEGATE_SWEEPER_ENABLED")),
            ("tasks.NAME.url", Some("TIDEGATE_TASKS__NAME__URL")),
            ("tasks.mail.url", Some("TIDEGATE_TASKS__MAIL__URL")),
            ("tasks.Mail.url", None),
            ("envs.\"acme/prod\".weight", None),
            ("tasks.a__b.url", None),
        ] {
            assert_eq!(variable(&keys(key)).as_deref(), name, "{key}");
        }
    }

    #[test]
    fn an_unknown_setting_names_the_nearest() {
        for (key, nearest) in [
            ("nodes.lease_secnds", "`nodes.lease_seconds`"),
            ("lease_seconds", "`nodes.lease_seconds`"),
            ("limits.max_runing", "`limits.max_running`"),
        ] {
            let hint = unknown(key, &all()).hint.expect("a hint");
            assert_eq!(hint, format!("did you mean {nearest}?"), "{key}");
        }
        assert!(unknown("zzz", &all()).hint.is_some_and(|hint| hint.contains("config init")));
    }
}
