//! Who may know whom, and that the documents tell the truth about it. Reads manifests, sources and documents;
//! starts nothing. Every finding names its file and line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates, from what is true to who checks it; each may know only those before it.
const CRATES: [(&str, &str); 4] = [
    ("storage", "tidegate-storage"),
    ("actors", "tidegate-actors"),
    ("gateway", "tidegate"),
    ("integration-tests", "integration-tests"),
];
const FOLDERS: [&str; 6] = ["actors", "gateway", "integration-tests", "k8s", "ops", "storage"];
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "ops/README.md",
    "ops/METRICS.md",
    "ops/ERRORS.md",
    "k8s/README.md",
    "integration-tests/ACCEPTANCE.md",
];
const LINES_MAX: usize = 500;

#[test]
fn arrows_between_crates_never_turn() {
    let mut findings = Vec::new();
    for (index, (folder, _)) in CRATES.iter().enumerate() {
        let path = format!("{folder}/Cargo.toml");
        let text = read(&path);
        let manifest: toml::Table = text.parse().expect("a manifest");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let known = manifest.get(section).and_then(toml::Value::as_table);
            for name in known.into_iter().flat_map(|table| table.keys()) {
                let turned = CRATES[index..].iter().any(|(_, package)| package == name);
                if turned {
                    findings.push(format!("{path}:{}: {folder} must not know {name}", line_of(&text, name)));
                }
            }
        }
    }
    none(findings);
}

#[test]
fn the_model_knows_std_serde_rand_ulid_and_itself_only() {
    let allowed = ["std", "serde", "rand", "ulid"];
    let manifest: toml::Table = read("storage/Cargo.toml").parse().expect("a manifest");
    let known = ["dependencies", "dev-dependencies"].iter().filter_map(|section| manifest[*section].as_table());
    let crates: BTreeSet<String> = known.flat_map(|table| table.keys()).map(|name| name.replace('-', "_")).collect();
    let mut findings = Vec::new();
    for file in sources("storage/src/model") {
        let imports = file.imports().into_iter().filter(|(_, import)| {
            let first = words(import).next().unwrap_or_default();
            let own_macro = file.text.contains(&format!("macro_rules! {first} "));
            let itself = own_macro || import.starts_with("super::") || import.starts_with("crate::model");
            !itself && !allowed.contains(&first)
        });
        let inline = file.paths().into_iter().filter(|(_, path)| {
            let first = path.split("::").next().unwrap_or_default();
            let outside = crates.contains(first) && !allowed.contains(&first);
            outside || (path.starts_with("crate::") && !path.starts_with("crate::model"))
        });
        for (line, path) in imports.chain(inline) {
            findings.push(format!("{}:{line}: the model knows {path}", file.path));
        }
    }
    none(findings);
}

#[test]
fn plans_know_no_actor_runtime_database_clock_or_log() {
    let banned = ["actix", "tokio", "sqlx", "tracing", "Instant", "SystemTime", "SystemClock", "Clock", "async"];
    let plans = all_sources().into_iter().filter(|file| file.path.ends_with("/plan.rs"));
    let mut findings = Vec::new();
    for file in plans {
        for (line, code) in file.code() {
            for word in words(code).filter(|word| banned.contains(word)) {
                findings.push(format!("{}:{line}: a plan says `{word}`", file.path));
            }
        }
    }
    none(findings);
}

#[test]
fn actix_web_is_only_in_the_gateway_and_in_tests() {
    none(mentions("actix_web", |path| path.starts_with("gateway/") || path.starts_with("integration-tests/")));
}

#[test]
fn sqlx_is_only_in_the_store_and_its_errors_and_in_tests() {
    none(mentions("sqlx", |path| {
        let store = path == "storage/src/store.rs" || path.starts_with("storage/src/store/");
        store || path == "storage/src/error.rs" || path.contains("/tests/") || path.starts_with("integration-tests/")
    }));
}

#[test]
fn the_supervisor_of_actix_is_nowhere() {
    let mut findings = Vec::new();
    for file in all_sources() {
        let imports = file.imports().into_iter().filter(|(_, import)| import.starts_with("actix::"));
        for (line, _) in imports.filter(|(_, import)| words(import).any(|word| word == "Supervisor")) {
            findings.push(format!("{}:{line}: it does not survive a panic; use actors::supervisor", file.path));
        }
        for (line, _) in file.code().filter(|(_, code)| code.contains(concat!("actix::", "Supervisor"))) {
            findings.push(format!("{}:{line}: it does not survive a panic; use actors::supervisor", file.path));
        }
    }
    none(findings);
}

#[test]
fn no_module_is_a_mod_rs_and_no_source_is_longer_than_500_lines() {
    let mut findings = Vec::new();
    for file in all_sources() {
        let lines = file.text.lines().count();
        if file.path.ends_with("/mod.rs") {
            findings.push(format!("{}:1: name it after its module", file.path));
        }
        if lines > LINES_MAX {
            findings.push(format!("{}:{lines}: it is asking to be two", file.path));
        }
    }
    none(findings);
}

#[test]
fn there_is_no_other_top_level_folder() {
    let mut findings = Vec::new();
    for entry in fs::read_dir(root()).expect("the workspace").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = name.starts_with('.') || name == "target" || FOLDERS.contains(&name.as_str());
        if entry.path().is_dir() && !known {
            findings.push(format!("{name}:1: top-level folders are {}", FOLDERS.join(", ")));
        }
    }
    none(findings);
}

#[test]
fn both_databases_have_migrations_of_the_same_names() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(folder)).expect("migrations").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let (sqlite, postgres) = (names("storage/migrations/sqlite"), names("storage/migrations/postgres"));
    let lonely = sqlite.symmetric_difference(&postgres);
    none(lonely.map(|name| format!("storage/migrations/*/{name}:1: only one database has it")).collect());
}

/// The edges of one entity as the picture draws them.
macro_rules! drawn {
    ($name:literal, $($module:ident)::+) => {{
        let edges = storage::model::$($module)::+::EDGES.iter();
        let lines = edges.map(|(from, by, to)| format!("{} --> {}: {}", from.word(), to.word(), by.word()));
        ($name, lines.collect::<Vec<String>>())
    }};
}

#[test]
fn the_pictures_of_states_are_exactly_the_edges() {
    let machines = [
        drawn!("run", run),
        drawn!("attempt", attempt),
        drawn!("batch request", attempt::request),
        drawn!("batch", batch),
        drawn!("job", job),
        drawn!("node", node),
    ];
    let text = read("ARCHITECTURE.md");
    let mut findings = Vec::new();
    for (name, edges) in machines {
        let title = format!("%% {name}");
        let Some(at) = text.lines().position(|line| line.trim() == title) else {
            findings.push(format!(
                "ARCHITECTURE.md:1: no picture begins with `{title}`; it should be\n{}",
                edges.join("\n")
            ));
            continue;
        };
        let picture = text.lines().skip(at + 1).take_while(|line| !line.starts_with("```"));
        let shown: Vec<&str> = picture.map(str::trim).filter(|line| line.contains("-->")).collect();
        for edge in edges.iter().filter(|edge| !shown.contains(&edge.as_str())) {
            findings.push(format!("ARCHITECTURE.md:{}: the picture of a {name} lacks `{edge}`", at + 1));
        }
        for edge in shown.iter().filter(|edge| !edges.iter().any(|legal| legal == *edge)) {
            findings.push(format!("ARCHITECTURE.md:{}: a {name} has no edge `{edge}`", line_of(&text, edge)));
        }
    }
    none(findings);
}

#[test]
fn every_failpoint_is_passed_somewhere() {
    let product = ["storage/src", "actors/src", "gateway/src"].into_iter().flat_map(sources);
    let sources: Vec<_> = product.filter(|file| file.path != "storage/src/failpoint.rs").collect();
    let used: BTreeSet<String> = sources.iter().flat_map(|file| file.paths()).map(|(_, path)| path).collect();
    let unused = storage::failpoint::Failpoint::ALL.iter().filter(|point| {
        let name = format!("Failpoint::{point:?}");
        !used.iter().any(|path| path.ends_with(&name))
    });
    let declared = read("storage/src/failpoint.rs");
    let found = unused.map(|point| {
        let line = line_of(&declared, &format!("\"{}\"", point.name()));
        format!("storage/src/failpoint.rs:{line}: no source passes {}", point.name())
    });
    none(found.collect());
}

#[test]
fn commands_in_documents_exist_with_their_options() {
    let commands = variants(&read("gateway/src/cli.rs"), "pub enum Command {");
    let of_cli = |file: &SourceFile| file.path == "gateway/src/cli.rs" || file.path.starts_with("gateway/src/cli/");
    let cli: String = all_sources().into_iter().filter(of_cli).map(|file| file.text).collect();
    let mut findings = Vec::new();
    for (document, line, command) in documented() {
        let words: Vec<&str> = command.split_whitespace().skip_while(|word| word.contains('=')).collect();
        let arguments = match words.as_slice() {
            ["tidegate", rest @ ..] => rest,
            ["cargo", "run", rest @ ..] => rest.split(|word| *word == "--").nth(1).unwrap_or_default(),
            _ => continue,
        };
        let Some(name) = arguments.first().filter(|name| !name.starts_with('-')) else { continue };
        if !commands.iter().any(|command| command == name) {
            findings.push(format!("{document}:{line}: there is no command `{name}`"));
        }
        for option in arguments.iter().filter_map(|word| word.strip_prefix("--")) {
            let option = option.split('=').next().unwrap_or_default();
            let field = format!("{}:", option.replace('-', "_"));
            if !cli.contains(&field) && !cli.contains(&format!("long = \"{option}\"")) {
                findings.push(format!("{document}:{line}: there is no option --{option}"));
            }
        }
    }
    none(findings);
}

#[test]
fn files_variables_and_metrics_that_documents_name_exist() {
    let sources: String = all_sources().into_iter().map(|file| file.text).collect();
    let mut findings = Vec::new();
    for (document, line, text) in documented() {
        for word in text.split(|c: char| c.is_whitespace() || "()[],;\"'=".contains(c)) {
            let word = word.trim_end_matches(['.', ':']);
            let ours = FOLDERS.iter().any(|folder| word.starts_with(&format!("{folder}/")));
            let exact = !word.contains(['*', '{', '<', '…']);
            if ours && exact && !root().join(word).exists() {
                findings.push(format!("{document}:{line}: there is no {word}"));
            }
            let variable = word.starts_with("TIDEGATE_") && !word.contains("__");
            if (variable || word.starts_with("tidegate_")) && !sources.contains(&format!("{word}\"")) {
                findings.push(format!("{document}:{line}: the sources do not know {word}"));
            }
        }
    }
    none(findings);
}

#[test]
fn tests_that_documents_name_exist() {
    let tests: BTreeSet<String> = all_sources().iter().flat_map(SourceFile::functions).collect();
    let mut findings = Vec::new();
    for (document, line, text) in documented() {
        let name = text.rsplit("::").next().unwrap_or_default();
        let metric = name.starts_with("tidegate_");
        let claim = !metric && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if claim && name.matches('_').count() >= 4 && !tests.contains(name) {
            findings.push(format!("{document}:{line}: there is no test {name}"));
        }
    }
    none(findings);
}

/// Everything in code style in the documents, with its place: fenced lines and inline spans. What stands under
/// a heading "To write" is not there yet.
fn documented() -> Vec<(&'static str, usize, String)> {
    let mut found = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let (mut fenced, mut wished) = (false, false);
        for (index, line) in text.lines().enumerate() {
            if line.starts_with("```") {
                fenced = !fenced;
            } else if !fenced && line.starts_with('#') {
                wished = line.to_lowercase().contains("to write");
            } else if !wished && fenced {
                let command = line.split(" # ").next().unwrap_or_default();
                found.push((document, index + 1, command.trim().trim_start_matches("$ ").to_owned()));
            } else if !wished {
                let spans = line.split('`').skip(1).step_by(2);
                found.extend(spans.map(|span| (document, index + 1, span.to_owned())));
            }
        }
    }
    found
}

/// The variants of an enum as clap names them.
fn variants(source: &str, head: &str) -> Vec<String> {
    let body = source.lines().skip_while(|line| *line != head).skip(1).take_while(|line| *line != "}");
    let names = body.map(str::trim).filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    let kebab = |name: &str| {
        let mut word = String::new();
        for c in name.chars().take_while(char::is_ascii_alphanumeric) {
            if c.is_ascii_uppercase() && !word.is_empty() {
                word.push('-');
            }
            word.push(c.to_ascii_lowercase());
        }
        word
    };
    names.map(kebab).collect()
}

/// Places where code says `name`, except where it may.
fn mentions(name: &str, allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for file in all_sources().into_iter().filter(|file| !allowed(&file.path)) {
        for (line, code) in file.code().filter(|(_, code)| words(code).any(|word| word == name)) {
            findings.push(format!("{}:{line}: `{}` must not say {name}", file.path, code.trim()));
        }
    }
    findings
}

pub struct SourceFile {
    /// From the workspace's root, with forward slashes.
    pub path: String,
    text: String,
}

impl SourceFile {
    /// Lines with their numbers, without comments. A `//` in a string ends its line too.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    /// `use` declarations with the line that they begin on, each on one line, without `use` itself.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut imports: Vec<(usize, String)> = Vec::new();
        let mut open = false;
        for (line, code) in self.code() {
            let code = code.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let begun = code.trim_start_matches("pub ").strip_prefix("use ");
            match (open, begun, imports.last_mut()) {
                (false, Some(import), _) => imports.push((line, import.to_owned())),
                (true, _, Some((_, import))) => import.push_str(code),
                _ => continue,
            }
            open = !code.ends_with(';');
        }
        imports
    }

    /// Every `a::b::c` in the code that begins with a module or a crate, or with `Failpoint`.
    fn paths(&self) -> Vec<(usize, String)> {
        let mut paths = Vec::new();
        for (line, code) in self.code() {
            let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            for path in code.split(|c: char| !is_part(c)).filter(|path| path.trim_end_matches(':').contains("::")) {
                let begins_low = path.starts_with(|c: char| c.is_ascii_lowercase());
                if begins_low || path.starts_with("Failpoint::") {
                    paths.push((line, path.to_owned()));
                }
            }
        }
        paths
    }

    pub fn functions(&self) -> Vec<String> {
        let named = |(_, code): (usize, &str)| {
            let rest = code.split_once("fn ")?.1;
            Some(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        };
        self.code().filter_map(named).collect()
    }
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

pub fn all_sources() -> Vec<SourceFile> {
    CRATES.iter().flat_map(|(folder, _)| sources(folder)).collect()
}

fn sources(folder: &str) -> Vec<SourceFile> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if path.is_dir() && !hidden && !path.ends_with("node_modules") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
                files.push(SourceFile { path: name, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "{folder} has no sources");
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn line_of(text: &str, part: &str) -> usize {
    text.lines().position(|line| line.contains(part)).map_or(1, |index| index + 1)
}

#[track_caller]
pub fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} found:\n{}", findings.len(), findings.join("\n"));
}
