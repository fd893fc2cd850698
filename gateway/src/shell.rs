//! `tidegate completions` and `man`: what shells and manuals need to know of the command line, from the command line.

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::output::note;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::Path;

pub fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut text);
    crate::output::send_bytes(&text)?;
    Ok(Exit::Done)
}

/// Writes `tidegate.1`, `tidegate-runs.1`, `tidegate-runs-create.1` and so on.
pub fn man(folder: &Path) -> Result<Exit, Failure> {
    let mut root = Cli::command();
    // Each then knows what it is called with, and what it takes from those above it.
    root.build();
    let pages = write(&root, "tidegate", folder)?;
    note(format_args!("{pages} pages are in {}; read one with `man -l {0}/tidegate.1`", folder.display()));
    Ok(Exit::Done)
}

fn write(command: &Command, name: &str, folder: &Path) -> Result<usize, Failure> {
    let path = folder.join(format!("{name}.1"));
    let cannot = |error| Failure::usage(format!("--out {}: cannot write {name}.1: {error}", folder.display()));
    let mut page = Vec::new();
    let titled = command.clone().display_name(name.to_owned());
    Man::new(titled).source(concat!("tidegate ", env!("CARGO_PKG_VERSION"))).render(&mut page).map_err(cannot)?;
    std::fs::write(&path, page).map_err(cannot)?;
    let mut pages = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        pages += write(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(pages)
}
