//! Logs on stderr: level from `TIDEGATE_LOG` (off, error, warn, info, debug) or else `log.level`, form from
//! `TIDEGATE_LOG_FORMAT` (text or json). Secrets never come here: keys live in header values that print as `Sensitive`; should one of
//! our own keys come after all, in the words of a stranger, it is hidden on its way out.

mod scrub;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/without_otlp.rs"]
mod otlp;

pub use otlp::Exporter;

use crate::config::{LogLevel, TelemetryConfig};
use crate::exit::Failure;
use scrub::Scrubbed;
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

const LEVEL: &str = "TIDEGATE_LOG";

/// Where the framework complains at ERROR about requests that it cannot read. Nobody needs to act on them, and
/// any stranger could fill the log with them; the client is told by its answer.
const STRANGERS_DOING: [&str; 2] = ["actix_http::h1::dispatcher", "actix_http::h1::decoder"];

/// By which the level of the installed log is changed.
static SWITCH: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Installs the log; `quiet_by_default` keeps warnings from tearing a progress bar.
pub fn init(quiet_by_default: bool, configured: Option<LogLevel>) -> Result<(), Failure> {
    let default = if quiet_by_default { LevelFilter::ERROR } else { LevelFilter::WARN };
    let level = match variable(LEVEL) {
        Some(word) => word
            .parse()
            .map_err(|_| Failure::usage(format!("{LEVEL} is `{word}`; use off, error, warn, info or debug")))?,
        None => configured.map_or(default, filter),
    };
    let json = match variable("TIDEGATE_LOG_FORMAT").as_deref() {
        Some("json") => true,
        Some("text") | None => false,
        Some(other) => return Err(Failure::usage(format!("TIDEGATE_LOG_FORMAT is `{other}`; use text or json"))),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines =
        fmt::layer().with_writer(|| Scrubbed::new(std::io::stderr())).log_internal_errors(false).with_ansi(colour);
    let (wanted, switch) = reload::Layer::new(wanted(level));
    let log = tracing_subscriber::registry().with(wanted);
    let installed = if json { log.with(lines.json()).try_init().is_ok() } else { log.with(lines).try_init().is_ok() };
    // A second one, as in tests, changes nothing.
    if installed {
        let _ = SWITCH.set(switch);
    }
    Ok(())
}

/// Takes another configured level over; false where the environment says which it is, and goes on to.
pub fn take_over(configured: Option<LogLevel>) -> bool {
    if variable(LEVEL).is_some() {
        return false;
    }
    if let Some(switch) = SWITCH.get() {
        // It fails only when the log is gone.
        let _ = switch.reload(wanted(configured.map_or(LevelFilter::WARN, filter)));
    }
    true
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

/// Everything up to a level, but what strangers cause only for somebody who looks for it.
fn wanted(level: LevelFilter) -> Targets {
    let all = Targets::new().with_default(level);
    if level >= LevelFilter::DEBUG {
        return all;
    }
    STRANGERS_DOING.iter().fold(all, |wanted, target| wanted.with_target(*target, LevelFilter::OFF))
}

/// An environment variable that is set to something; what is not text is no known word either.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
    Some(value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn what_strangers_cause_is_shown_only_to_somebody_who_looks_for_it() {
        for (level, shown) in [
            (LevelFilter::OFF, false),
            (LevelFilter::ERROR, false),
            (LevelFilter::WARN, false),
            (LevelFilter::INFO, false),
            (LevelFilter::DEBUG, true),
            (LevelFilter::TRACE, true),
        ] {
            for target in STRANGERS_DOING {
                assert_eq!(wanted(level).would_enable(target, &Level::ERROR), shown, "{target} at {level}");
            }
            let own = level >= LevelFilter::ERROR;
            for target in ["gateway::http", "actix_http::h1::service", "actix_server::worker"] {
                assert_eq!(wanted(level).would_enable(target, &Level::ERROR), own, "{target} at {level}");
            }
            assert_eq!(wanted(level).would_enable("gateway::http", &Level::INFO), level >= LevelFilter::INFO);
        }
    }
}
