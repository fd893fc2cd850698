//! A document, and its commands carried out by a shell in the order in which they stand there.

use harness::{Server, binary};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What begins a command inside a sentence; whatever stands in a block for a shell is one.
const PROGRAMS: [&str; 9] =
    ["tidegate ", "curl ", "psql ", "sqlite3 ", "promtool ", "pg_dump ", "systemctl ", "kubectl ", "docker "];
/// Requests, which a sentence names without the program that sends them.
const METHODS: [&str; 2] = ["GET /", "POST /"];
/// What is named in a sentence for what it is, and not to be done there.
const MENTIONED: [&str; 3] = ["tidegate batches adopt", "tidegate batches abandon", "tidegate db backup"];
/// Words that stand for something that only the situation knows.
const PLACEHOLDERS: [&str; 7] = ["ID", "IDS", "THEIRS", "FILE", "QUEUE", "NODE", "RUN"];

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A page in the situation that it is about. All of its commands have to be carried out before it is dropped.
pub struct Page {
    pub path: String,
    text: String,
    commands: VecDeque<String>,
    /// What placeholders stand for, and what variables of the shell are set to.
    means: Vec<(String, String)>,
    exits: Vec<(&'static str, i32)>,
    bin: tempfile::TempDir,
}

impl Page {
    /// A runbook, by its name.
    pub fn open(name: &str) -> Page {
        let path = format!("ops/runbooks/{name}.md");
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Page::of(path, text.clone(), commands_of(&text, true))
    }

    /// The blocks for a shell below one heading of a document.
    pub fn section(path: &str, heading: &str) -> Page {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{path}: no {heading}"));
        let below = rest.split("\n#").next().unwrap_or_default().to_owned();
        let commands = commands_of(&below, false);
        assert!(!commands.is_empty(), "{path}: nothing is to be done in {heading}");
        Page::of(path.to_owned(), below, commands)
    }

    fn of(path: String, text: String, commands: Vec<String>) -> Page {
        let bin = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(binary(), bin.path().join("tidegate")).expect("a link");
        Page { path, text, commands: commands.into(), means: Vec::new(), exits: Vec::new(), bin }
    }

    /// What a placeholder or a variable stands for from here on.
    pub fn fill(&mut self, word: &str, meaning: &str) -> &mut Page {
        self.means.retain(|(known, _)| known != word);
        self.means.push((word.to_owned(), meaning.to_owned()));
        self
    }

    /// How a command ends in this situation; the page has to say so.
    pub fn exits(&mut self, command: &'static str, code: i32) -> &mut Page {
        assert!(self.text.contains(&format!("exit {code}")), "{} does not speak of exit {code}", self.path);
        self.exits.retain(|(known, _)| *known != command);
        self.exits.push((command, code));
        self
    }

    /// From here on it ends well.
    pub fn exits_well(&mut self) -> &mut Page {
        self.exits.clear();
        self
    }

    /// Carries out whatever stands before the next command that begins so.
    #[track_caller]
    pub fn until(&mut self, server: &Server, begins: &str) -> &mut Page {
        while let Some(command) = self.commands.pop_front() {
            if command.starts_with(begins) {
                self.commands.push_front(command);
                return self;
            }
            self.carry_out(server, &command);
        }
        panic!("{}: no command begins with `{begins}`", self.path);
    }

    /// Carries out the next command, which begins so; returns what it printed.
    #[track_caller]
    pub fn next(&mut self, server: &Server, begins: &str) -> String {
        self.until(server, begins);
        let command = self.commands.pop_front().expect("it is there");
        self.carry_out(server, &command)
    }

    /// The next command is one that the test does in its own way.
    #[track_caller]
    pub fn played(&mut self, command: &str) -> &mut Page {
        let next = self.commands.pop_front();
        assert_eq!(next.as_deref(), Some(command), "{}", self.path);
        self
    }

    /// Carries out whatever is left.
    #[track_caller]
    pub fn rest(&mut self, server: &Server) {
        while let Some(command) = self.commands.pop_front() {
            self.carry_out(server, &command);
        }
    }

    #[track_caller]
    fn carry_out(&self, server: &Server, command: &str) -> String {
        let output = self.shell(server, command);
        let expected = self.exits.iter().find(|(begins, _)| command.starts_with(begins)).map_or(0, |(_, code)| *code);
        assert_eq!(output.status.code(), Some(expected), "{}: `{command}`: {output:?}", self.path);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The command with everything filled in, by a shell where the server runs.
    fn shell(&self, server: &Server, command: &str) -> Output {
        let mut line = match METHODS.iter().find(|method| command.starts_with(*method)) {
            Some(_) => {
                let (method, path) = command.split_once(' ').expect("a method and a path");
                format!("curl -sSf -X {method} 'localhost:7070{path}'")
            }
            None => command.to_owned(),
        };
        for (word, meaning) in &self.means {
            line = replace_word(&line, word, meaning);
        }
        let open = PLACEHOLDERS.iter().find(|word| replace_word(&line, word, "") != line);
        assert!(open.is_none(), "{}: nobody says what {open:?} is in `{command}`", self.path);
        let place = |addr: Option<std::net::SocketAddr>| addr.map_or("127.0.0.1:9".to_owned(), |addr| addr.to_string());
        let api = place(server.door().addr());
        if line.contains("localhost:7071") {
            line = line.replace("localhost:7071", &server.ops_addr().to_string());
        }
        line = line.replace("localhost:7070", &api).replace(" ops/", &format!(" {}/ops/", root().display()));
        // The binary is there already, and whoever tests has no other user.
        line = line.replace("cargo run --release -- ", "tidegate ").replace("sudo -u tidegate ", "");
        let mut shell = Command::new("sh");
        shell.args(["-ec", &line]).env_clear().current_dir(server.dir.path()).stdin(std::process::Stdio::null());
        for (name, value) in server.command(&[]).get_envs() {
            shell.envs(value.map(|value| (name, value)));
        }
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.bin.path().display()));
        shell.env("TIDEGATE_SERVER", format!("http://{api}"));
        let is_variable = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        shell.envs(self.means.iter().filter(|(name, _)| is_variable(name)).map(|(name, value)| (name, value)));
        shell.output().expect("a shell")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.commands.is_empty(), "{}: nobody carries out {:?}", self.path, self.commands);
        }
    }
}

/// Puts something else where a word stands by itself; what a shell fills in is left to it.
fn replace_word(line: &str, word: &str, with: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let alone = !before.ends_with(is_part) && !after.starts_with(is_part);
        text.push_str(before);
        text.push_str(if alone { with } else { word });
        rest = after;
    }
    text + rest
}

/// All commands of a document in its order: lines of blocks for a shell, and between them, if asked for, what sentences
/// have in code style and begins like one.
pub fn commands_of(text: &str, inline: bool) -> Vec<String> {
    let (mut commands, mut prose, mut fence) = (Vec::new(), String::new(), None::<bool>);
    let flush = |prose: &mut String, commands: &mut Vec<String>| {
        let spans = prose.split('`').skip(1).step_by(2).map(str::trim);
        let is_command = |span: &&str| {
            PROGRAMS.iter().chain(&METHODS).any(|begins| span.starts_with(begins)) && !MENTIONED.contains(span)
        };
        if inline {
            commands.extend(spans.filter(is_command).map(str::to_owned));
        }
        prose.clear();
    };
    for line in text.lines() {
        let stripped = line.trim();
        match (fence, stripped.strip_prefix("```")) {
            (None, Some(language)) => {
                flush(&mut prose, &mut commands);
                fence = Some(language == "sh");
            }
            (Some(_), Some(_)) => fence = None,
            (Some(true), None) => {
                let command = stripped.split(" # ").next().unwrap_or_default().trim();
                if !command.is_empty() && !command.starts_with('#') {
                    commands.push(command.to_owned());
                }
            }
            (Some(false), None) => {}
            (None, None) => {
                prose.push_str(stripped);
                prose.push(' ');
            }
        }
    }
    flush(&mut prose, &mut commands);
    commands
}

#[test]
fn commands_are_read_out_of_sentences_and_blocks_in_their_order() {
    let text = "Say `tidegate db\ncheck`, not `check` or `GET`.\n```sh\ntidegate a   # why\n# no\nsudo x\n```\n```toml\nx\n```\n\
        `POST /api/v1/queues/QUEUE/pause`";
    assert_eq!(
        commands_of(text, true),
        ["tidegate db check", "tidegate a", "sudo x", "POST /api/v1/queues/QUEUE/pause"]
    );
    assert_eq!(commands_of(text, false), ["tidegate a", "sudo x"]);
    assert_eq!(replace_word("x ID IDS --id=ID $ID /ID/", "ID", "7"), "x 7 IDS --id=7 $ID /7/");
}
