//! What every command takes that speaks to a server.

use super::duration;
use clap::Args;
use std::time::Duration;

/// Which server, and in which env. The key is no option: what stands on a command line is seen by everybody on
/// the machine, so it comes from `TIDEGATE_API_KEY` only.
#[derive(Debug, Clone, Args)]
pub struct Remote {
    /// Server to speak to; its key comes from TIDEGATE_API_KEY, or from the file that TIDEGATE_API_KEY_FILE names
    #[arg(
        long,
        global = true,
        env = "TIDEGATE_SERVER",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:7070"
    )]
    pub server: String,
    /// Env to act in (default: the key's, or default/dev where no keys are asked for)
    #[arg(long, global = true, env = "TIDEGATE_ENV", hide_env_values = true, value_name = "ORG/ENV")]
    pub env: Option<String>,
    /// How long the server may take for one answer, all tries together
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
}
