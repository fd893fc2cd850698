//! `tidegate completions` and `man`: for shells and manuals, whatever is wrong with the configuration.

use harness::{Database, Server};
use std::process::{Command, Output};

/// With a configuration that is refused by everything else.
fn folder() -> Server {
    Server::on(Database::Sqlite).config("[nodes\n")
}

fn tidegate(folder: &Server, args: &[&str]) -> Output {
    folder.command(args).output().expect("it is started")
}

#[test]
fn completions_are_printed_for_each_shell() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tidegate(&folder, &["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        for word in ["explain", "complete-round", "import-batches", "max-usd"] {
            assert!(text.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(tidegate(&folder, &["completions", "csh"]).status.code(), Some(2));
    assert_eq!(tidegate(&folder, &["completions"]).status.code(), Some(2));
    let script = folder.dir.path().join("tidegate.bash");
    std::fs::write(&script, tidegate(&folder, &["completions", "bash"]).stdout).expect("it is written");
    let asks = "source \"$0\"; COMP_WORDS=(tidegate db ''); COMP_CWORD=2; _tidegate tidegate '' db
        echo \"${COMPREPLY[@]}\"";
    let shell = Command::new("bash").args(["-c", asks]).arg(&script).output().expect("bash");
    let offered = String::from_utf8_lossy(&shell.stdout).into_owned();
    let verbs: Vec<_> = offered.split_whitespace().filter(|word| !word.starts_with('-')).collect();
    assert_eq!(verbs, ["migrate", "status", "backup", "restored", "check", "help"], "{shell:?}");
}

#[test]
fn a_manual_page_is_written_for_each_command() {
    let folder = folder();
    let pages = folder.dir.path().join("pages");
    std::fs::create_dir(&pages).expect("a folder");
    let output = tidegate(&folder, &["man", "--out", "pages"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for name in ["tidegate", "tidegate-serve", "tidegate-runs-create", "tidegate-config-explain"] {
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).expect(name);
        assert!(page.contains(&format!(".TH {name} 1")) && page.contains(".SH SYNOPSIS"), "{page}");
    }
    assert!(!pages.join("tidegate-man.1").exists(), "it is no command of everyday");
    let output = tidegate(&folder, &["man", "--out", "none"]);
    assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out none: cannot write tidegate.1"), "{output:?}");
}
