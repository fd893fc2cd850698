//! The binary and its settings.

use super::Check;
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Failure;
use crate::sim::Faults;
use std::path::Path;

pub fn binary() -> Check {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    Check::ok("binary", format!("tidegate {} ({build}, {os} {arch})", env!("CARGO_PKG_VERSION")))
}

/// Settings with which every other command ends.
pub fn refused(failure: Failure) -> Check {
    Check::failed(
        "configuration",
        failure,
        "`tidegate config validate` says the same; `config explain KEY` what a key is",
    )
}

pub fn configuration(common: &Common) -> Check {
    let here = Path::new("tidegate.toml");
    let from = match &common.config {
        Some(path) => path.display().to_string(),
        None if here.is_file() => "tidegate.toml in this directory".to_owned(),
        None => "no file: all defaults".to_owned(),
    };
    let mut laid_over: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.strip_prefix("TIDEGATE_").is_some_and(|keys| keys.contains("__")))
        .collect();
    laid_over.sort_unstable();
    // Names only: a value may be a secret.
    let over = if laid_over.is_empty() { String::new() } else { format!("; over it {}", laid_over.join(", ")) };
    Check::ok("configuration", format!("{from}{over}"))
}

/// The configured faults of the simulated provider, if there are any.
pub fn faults(config: &Config) -> Option<Check> {
    let mut faults = Faults::default();
    let wrong = config.sim.faults.iter().find_map(|fault| faults.set(fault).err());
    match wrong {
        Some(error) => {
            Some(Check::fail("sim", format!("sim.faults: {error}"), "`tidegate sim --list-faults` shows them all"))
        }
        None if config.sim.faults.is_empty() => None,
        None => {
            let what = format!("faults are switched on: {}", config.sim.faults.join(", "));
            Some(Check::warn("sim", what, "empty sim.faults if this is not for a test"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn configured_faults_are_named_and_wrong_ones_fail() {
        let mut config = Config::default();
        assert_eq!(faults(&config), None);
        config.sim.faults = vec!["lose_answers=1".into()];
        assert_eq!(faults(&config).map(|check| check.verdict), Some(Verdict::Warn));
        config.sim.faults.push("no_such=1".into());
        assert_eq!(faults(&config).map(|check| check.verdict), Some(Verdict::Fail));
    }
}
