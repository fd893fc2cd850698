//! Logs on stderr: level from `TIDEGATE_LOG` (off, error, warn, info, debug), form from `TIDEGATE_LOG_FORMAT`
//! (text or json). Secrets never come here: keys live in header values that print as `Sensitive`.

use crate::exit::Failure;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;

/// Installs the log; `quiet_by_default` keeps warnings from tearing a progress bar.
pub fn init(quiet_by_default: bool) -> Result<(), Failure> {
    let default = if quiet_by_default { LevelFilter::ERROR } else { LevelFilter::WARN };
    let level = match variable("TIDEGATE_LOG") {
        Some(word) => word
            .parse()
            .map_err(|_| Failure::usage(format!("TIDEGATE_LOG is `{word}`; use off, error, warn, info or debug")))?,
        None => default,
    };
    let json = match variable("TIDEGATE_LOG_FORMAT").as_deref() {
        Some("json") => true,
        Some("text") | None => false,
        Some(other) => return Err(Failure::usage(format!("TIDEGATE_LOG_FORMAT is `{other}`; use text or json"))),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(colour);
    // A second one, as in tests, changes nothing.
    let _ = if json { log.json().try_init().is_ok() } else { log.try_init().is_ok() };
    Ok(())
}

/// An environment variable that is set to something; what is not text is no known word either.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    Some(value.to_string_lossy().into_owned())
}
