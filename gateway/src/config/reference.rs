//! All settings there can be: which, from the structs; what they are, from the comments of `ops/tidegate.toml`.

use super::Config;
use serde_json::Value;
use std::collections::BTreeMap;

/// The commented file of all defaults.
pub const COMMENTED: &str = include_str!("../../../ops/tidegate.toml");
/// Stands for whatever name the user gives, in sections that have one entry for each name.
pub const NAME: &str = "NAME";
/// One entry of each such section, with what it cannot do without.
const ONE_OF_EACH: &str = "
[providers.NAME]
[tasks.NAME]
[queues.NAME]
[envs.NAME]
[orgs.NAME]
[sessions.NAME]
initial = ''
edges = {}
";

/// One setting, by its key with `NAME` for a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub keys: Vec<String>,
    /// `None` where there is none, or where it must be given.
    pub default: Option<Value>,
    pub what: String,
    /// The kind of its value, as a person would call it.
    pub kind: &'static str,
}

/// All settings, in the order of their keys.
pub fn all() -> Vec<Known> {
    let commented = Commented::read(COMMENTED);
    let one_of_each: Config = toml::from_str(ONE_OF_EACH).unwrap_or_default();
    let known = |(keys, default): (Vec<String>, Value)| {
        let (what, kind) = commented.settings.get(&keys).cloned().unwrap_or_default();
        let default = Some(default).filter(|value| !value.is_null() && value != "");
        Known { keys, default, what, kind }
    };
    leaves(&one_of_each).into_iter().map(known).collect()
}

/// Every value of a configuration with its key.
pub fn leaves(config: &Config) -> Vec<(Vec<String>, Value)> {
    let mut leaves = Vec::new();
    let Ok(Value::Object(sections)) = serde_json::to_value(config) else { return leaves };
    for (section, content) in sections {
        let Value::Object(content) = content else { continue };
        let named = is_named(&section);
        for (name, value) in content {
            match value {
                Value::Object(entry) if named => leaves
                    .extend(entry.into_iter().map(|(key, value)| (vec![section.clone(), name.clone(), key], value))),
                value => leaves.push((vec![section.clone(), name], value)),
            }
        }
    }
    leaves
}

/// Whether a section has one entry for each name.
pub fn is_named(section: &str) -> bool {
    ONE_OF_EACH.contains(&format!("[{section}.{NAME}]"))
}

/// The key with `NAME` for whatever name it has.
pub fn general(keys: &[String]) -> Vec<String> {
    let mut keys = keys.to_vec();
    if keys.len() > 1 && is_named(&keys[0]) {
        keys[1] = NAME.to_owned();
    }
    keys
}

/// Whether a server that runs takes a new value over on SIGHUP.
pub fn is_reloaded(keys: &[String]) -> bool {
    const OF_BUFFER: [&str; 4] = ["above_per_second", "turn", "ready_enough", "stale_seconds"];
    match keys {
        [section, key] if section == "buffer" => OF_BUFFER.contains(&key.as_str()),
        [section, ..] => ["limits", "queues", "envs", "orgs", "prices", "log"].contains(&section.as_str()),
        [] => false,
    }
}

/// A key as it is written in TOML.
pub fn written(keys: &[String]) -> String {
    let is_bare =
        |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let part = |key: &String| if is_bare(key) { key.clone() } else { Value::from(key.as_str()).to_string() };
    keys.iter().map(part).collect::<Vec<_>>().join(".")
}

/// What the commented file says about each setting that it has, whether it is commented out or not.
#[derive(Debug, Default)]
struct Commented {
    settings: BTreeMap<Vec<String>, (String, &'static str)>,
    section: Vec<String>,
    /// The comment that holds for what follows, and whether it goes on.
    comment: String,
    in_comment: bool,
}

impl Commented {
    fn read(text: &str) -> Commented {
        let mut commented = Commented::default();
        for line in text.lines() {
            commented.line(line);
        }
        commented
    }

    fn line(&mut self, line: &str) {
        let is_commented = line.starts_with('#');
        let content = line.trim_start_matches('#').trim();
        if let Some(section) = section(content) {
            self.section = general(&section);
            self.comment.clear();
        } else if let Some((key, value)) = setting(content) {
            let trailing = content.split_once(" # ").map(|(_, comment)| comment.trim().to_owned());
            let mut keys = self.section.clone();
            keys.push(key);
            // The first example of several has the comment.
            self.settings.entry(keys).or_insert((trailing.unwrap_or_else(|| self.comment.clone()), kind_of(&value)));
        } else if !is_commented || content.is_empty() {
            self.comment.clear();
        } else {
            if !self.in_comment {
                self.comment.clear();
            }
            self.comment += if self.comment.is_empty() { "" } else { " " };
            self.comment += content;
            self.in_comment = true;
            return;
        }
        self.in_comment = false;
    }
}

fn section(line: &str) -> Option<Vec<String>> {
    let inside = line.strip_prefix('[')?.split_once(']')?.0;
    super::sources::parse_key(inside)
}

fn setting(line: &str) -> Option<(String, toml::Value)> {
    let table: toml::Table = toml::from_str(line).ok()?;
    table.into_iter().next()
}

fn kind_of(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) | toml::Value::Datetime(_) => "text",
        toml::Value::Integer(_) => "whole number",
        toml::Value::Float(_) => "number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Array(_) => "list",
        toml::Value::Table(_) => "table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let config: Config = toml::from_str(COMMENTED).expect("it parses");
        assert_eq!(config.wrong(), Vec::<String>::new());
        assert_eq!(leaves(&config), leaves(&Config::default()));
    }

    #[test]
    fn the_commented_file_has_every_setting_and_no_other() {
        let known = all();
        for setting in &known {
            assert!(!setting.what.is_empty(), "ops/tidegate.toml says nothing about {}", written(&setting.keys));
        }
        let known: Vec<_> = known.into_iter().map(|known| known.keys).collect();
        for keys in Commented::read(COMMENTED).settings.keys() {
            assert!(known.contains(keys), "ops/tidegate.toml has {}, which is no setting", written(keys));
        }
        assert!(known.iter().all(|keys| keys.len() == if is_named(&keys[0]) { 3 } else { 2 }));
    }

    /// What is commented out is an example, and has to be one that works.
    #[test]
    fn the_examples_of_the_commented_file_are_settings_too() {
        let uncommented: String = COMMENTED
            .lines()
            .filter(|line| {
                !line.starts_with('#')
                    || section(line.trim_start_matches('#').trim()).is_some()
                    || setting(line.trim_start_matches('#').trim()).is_some()
            })
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        let config: Config = toml::from_str(&uncommented).expect("it parses");
        assert_eq!(config.wrong(), Vec::<String>::new());
        assert_eq!(config.tasks.len(), 4);
    }

    #[test]
    fn a_comment_holds_for_what_stands_under_it() {
        let text = "# head\n\n[a]\n# of both,\n# really\nx = 1\ny = 1.5\n# z = []   # own\n\nq = true\n# [b]\n# only that\n# r = \"\"\n";
        let commented = Commented::read(text);
        let of = |keys: &[&str]| {
            let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
            let (what, kind) = &commented.settings[&keys];
            (what.as_str(), *kind)
        };
        assert_eq!(of(&["a", "x"]), ("of both, really", "whole number"));
        assert_eq!(of(&["a", "y"]), ("of both, really", "number"));
        assert_eq!(of(&["a", "z"]), ("own", "list"));
        assert_eq!(of(&["a", "q"]), ("", "true or false"));
        assert_eq!(of(&["b", "r"]), ("only that", "text"));
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        for key in ["nodes.lease_seconds", "envs.\"acme/prod\".weight", "tasks.a-b.env", "tasks.\"a\\\"b\".env"] {
            assert_eq!(written(&super::super::sources::parse_key(key).expect(key)), key);
        }
    }
}
