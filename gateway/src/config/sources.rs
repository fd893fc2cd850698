//! Where settings come from: a file, and the environment laid over it.

use super::Config;
use crate::exit::Failure;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// What was read, before it is understood.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<(PathBuf, String)>,
    /// By name: of two variables of one setting the later name counts.
    laid: Vec<Laid>,
}

/// A variable of the environment that is a setting.
#[derive(Debug, Clone)]
struct Laid {
    name: String,
    keys: Vec<String>,
    value: String,
}

/// Where one setting has its value from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Origin::Env(name) => f.write_str(name),
        }
    }
}

impl Sources {
    /// Reads the named file, or `tidegate.toml` here if there is one, and the environment.
    pub fn read(named: Option<&Path>) -> Result<Sources, Failure> {
        let here = Path::new("tidegate.toml");
        let file = match named.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Some((path.to_owned(), read(path)?)),
            // Whatever has the name is meant: what cannot be read is refused, not passed over.
            None if here.symlink_metadata().is_ok() => Some((here.to_owned(), read(here)?)),
            None => None,
        };
        let mut laid = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let Some(keys) = config_keys(&name) else { continue };
            let not_text = || Failure::usage(format!("the value of {name} is not valid UTF-8"));
            let value = value.to_str().ok_or_else(not_text)?.to_owned();
            laid.push(Laid { name, keys, value });
        }
        laid.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Sources { file, laid })
    }

    /// The file, if one is read.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Names of the variables that are laid over it. A value may be a secret.
    pub fn laid_over(&self) -> impl Iterator<Item = &str> {
        self.laid.iter().map(|laid| laid.name.as_str())
    }

    pub fn config(&self) -> Result<Config, Failure> {
        let mut table = toml::Table::new();
        if let Some((path, text)) = &self.file {
            let bad = |error: toml::de::Error| Failure::usage(explain(path, &error));
            // The file alone first: its errors then name its lines.
            toml::from_str::<Config>(text).map_err(bad)?;
            table = toml::from_str(text).map_err(bad)?;
        }
        for laid in &self.laid {
            overlay(&mut table, &laid.keys, &laid.value);
        }
        let config: Config = table.try_into().map_err(|error: toml::de::Error| {
            let names: Vec<_> = self.laid_over().collect();
            Failure::usage(format!("{} (set by {})", with_suggestion(error.message()), names.join(", ")))
        })?;
        let wrong = config.wrong();
        if wrong.is_empty() {
            return Ok(config);
        }
        let lines: Vec<_> = wrong.iter().map(|line| self.with_origin(line)).collect();
        Err(Failure::usage(lines.join("\n")))
    }

    pub fn origin(&self, keys: &[String]) -> Origin {
        // A variable may set a part of it, or all that it is a part of.
        let meets = |laid: &&Laid| laid.keys.iter().zip(keys).all(|(a, b)| a == b);
        if let Some(laid) = self.laid.iter().rfind(meets) {
            return Origin::Env(laid.name.clone());
        }
        match &self.file {
            Some((path, text)) => match line_of(text, keys) {
                Some(line) => Origin::File { path: path.clone(), line },
                None => Origin::Default,
            },
            None => Origin::Default,
        }
    }

    /// What breaks a rule, with where it is said.
    fn with_origin(&self, wrong: &str) -> String {
        let end = wrong.find([' ', ':']).unwrap_or(wrong.len());
        match parse_key(&wrong[..end]).map(|keys| self.origin(&keys)) {
            None | Some(Origin::Default) => wrong.to_owned(),
            Some(Origin::Env(name)) => format!("{wrong} (set by {name})"),
            Some(origin) => format!("{wrong} ({origin})"),
        }
    }
}

/// The parts of a key as it is written in TOML: `envs."acme/prod".weight`.
pub fn parse_key(key: &str) -> Option<Vec<String>> {
    let mut table: toml::Table = toml::from_str(&format!("{key} = 0")).ok()?;
    let mut keys = Vec::new();
    loop {
        let (name, value) = std::mem::take(&mut table).into_iter().next()?;
        keys.push(name);
        match value {
            toml::Value::Table(inner) => table = inner,
            _ => return Some(keys),
        }
    }
}

/// The line on which a setting begins.
fn line_of(text: &str, keys: &[String]) -> Option<usize> {
    let (last, sections) = keys.split_last()?;
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    for section in sections {
        match table.iter().find(|(key, _)| key.get_ref() == section)?.1.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return None,
        }
    }
    let (key, _) = table.iter().find(|(key, _)| key.get_ref() == last)?;
    Some(text[..key.span().start].matches('\n').count() + 1)
}

fn read(path: &Path) -> Result<String, Failure> {
    const LARGEST: u64 = 1 << 20;
    let cannot = |why: String| Failure::usage(format!("cannot read the configuration {}: {why}", path.display()));
    if path.is_dir() {
        return Err(cannot("it is a directory".to_owned()));
    }
    let file = File::open(path).map_err(|error| cannot(error.to_string()))?;
    // A pipe or a device does not tell its size.
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| cannot(error.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(cannot("it is larger than 1 MiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|error| cannot(error.utf8_error().to_string()))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Kill switches, which have short names.
pub const SWITCHES: [(&str, [&str; 2]); 5] = [
    ("TIDEGATE_DRAINER_ENABLED", ["buffer", "drainer_enabled"]),
    ("TIDEGATE_BUFFER_MODE", ["buffer", "mode"]),
    ("TIDEGATE_SWEEPER_ENABLED", ["sweeps", "enabled"]),
    ("TIDEGATE_REPAIR_ENABLED", ["sweeps", "repair_enabled"]),
    ("TIDEGATE_RESUME_ENABLED", ["sweeps", "resume_enabled"]),
];

/// `TIDEGATE_NODES__LEASE_SECONDS` is `nodes.lease_seconds`; names without `__` are not configuration keys.
fn config_keys(name: &str) -> Option<Vec<String>> {
    if let Some((_, keys)) = SWITCHES.iter().find(|(switch, _)| *switch == name) {
        return Some(keys.iter().map(|key| (*key).to_owned()).collect());
    }
    let keys = name.strip_prefix("TIDEGATE_")?;
    keys.contains("__").then(|| keys.split("__").map(str::to_ascii_lowercase).collect())
}

fn overlay(table: &mut toml::Table, keys: &[String], value: &str) {
    match keys {
        [] => {}
        [last] => {
            let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut t| t.remove("v"));
            table.insert(last.clone(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            // Laid over a plain value it is refused by its type, as it would be in a file.
            if !inner.is_table() {
                *inner = toml::Value::Table(toml::Table::new());
            }
            if let toml::Value::Table(inner) = inner {
                overlay(inner, rest, value);
            }
        }
    }
}

fn explain(path: &Path, error: &toml::de::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("TOML parse error ").to_owned();
    format!("{}: {line}: {}", path.display(), with_suggestion(error.message()))
}

/// Adds "did you mean" to an error about an unknown key.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown field"));
    let nearest = unknown.and_then(|unknown| {
        let scored = quoted.map(|known| (strsim::jaro_winkler(unknown, known), known));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.7).map(|(_, known)| known)
    });
    match nearest {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::BufferMode;
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = toml::from_str::<Config>("[nodes]\nlease_secnds = 3\n").expect_err("unknown");
        let text = explain(Path::new("x.toml"), &error);
        assert!(text.starts_with("x.toml: at line 2"), "{text}");
        assert!(text.ends_with("did you mean `lease_seconds`?"), "{text}");
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let mut table: toml::Table = toml::from_str("[nodes]\nlease_seconds = 3\n").expect("toml");
        let keys = config_keys("TIDEGATE_NODES__LEASE_SECONDS").expect("a key");
        overlay(&mut table, &keys, "7");
        overlay(&mut table, &config_keys("TIDEGATE_PROVIDERS__OPENAI__BASE_URL").expect("a key"), "http://x/v1");
        let config: Config = table.try_into().expect("a config");
        assert_eq!(config.nodes.lease_seconds, 7.0);
        assert_eq!(config.providers["openai"].base_url.as_deref(), Some("http://x/v1"));
        assert_eq!(config_keys("TIDEGATE_STORE"), None);
        for (switch, keys) in SWITCHES {
            let mut table = toml::Table::new();
            let keys = keys.map(str::to_owned);
            assert_eq!(config_keys(switch).as_deref(), Some(keys.as_slice()));
            overlay(&mut table, &keys, if switch == "TIDEGATE_BUFFER_MODE" { "off" } else { "false" });
            let config: Config = table.try_into().expect(switch);
            let on = [
                config.buffer.drainer_enabled,
                config.sweeps.enabled,
                config.sweeps.repair_enabled,
                config.sweeps.resume_enabled,
                config.buffer.mode != BufferMode::Off,
            ];
            assert_eq!(on.iter().filter(|on| !**on).count(), 1, "{switch} turns one thing off");
        }
    }

    #[test]
    fn a_setting_says_which_line_or_variable_it_comes_from() {
        let text = "[nodes]\n\nlease_seconds = 3\n[tasks.a]\nkind = \"noop\"\n[envs.\"acme/prod\"]\nweight = 2\n";
        let laid = |name: &str| Laid { name: name.into(), keys: config_keys(name).expect(name), value: "9".into() };
        let sources =
            Sources { file: Some(("x.toml".into(), text.into())), laid: vec![laid("TIDEGATE_TASKS__A__QUEUE")] };
        for (key, origin) in [
            ("nodes.lease_seconds", "x.toml, line 3"),
            ("envs.\"acme/prod\".weight", "x.toml, line 7"),
            ("tasks.a.kind", "x.toml, line 5"),
            ("tasks.a.queue", "TIDEGATE_TASKS__A__QUEUE"),
            ("tasks.a", "TIDEGATE_TASKS__A__QUEUE"),
            ("sim.faults", "default"),
        ] {
            assert_eq!(sources.origin(&parse_key(key).expect(key)).to_string(), origin, "{key}");
        }
        for bad in ["", ".", "a..b", "a b", "a\nb"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }
}
