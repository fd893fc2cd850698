//! `tidegate config …`.

use clap::Subcommand;
use std::path::PathBuf;

/// These start nothing and open no store.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its value and where that comes from; secrets are hidden
    Show,
    /// Say what a setting is, what it is set to, and by what
    Explain {
        /// A setting such as nodes.lease_seconds or tasks.NAME.url, or a section for all of its settings
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Check a configuration as any command would read it, with the environment laid over it; 0 or 2
    Validate {
        /// The file (default: --config, or tidegate.toml here)
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print a file with every setting at its default, commented
    Init {
        /// Write it to this new file instead
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}
