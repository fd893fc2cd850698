//! The sections about what is told of this process while it runs: its log, and traces.

use actors::provider::wire::Endpoint;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What is logged, where `TIDEGATE_LOG` does not say.
    pub level: Option<LogLevel>,
}

/// The least grave that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where spans are sent to.
    pub otlp_endpoint: Option<String>,
    /// Of traces that begin here, the part that is recorded.
    pub sample_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> TelemetryConfig {
        TelemetryConfig { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

impl TelemetryConfig {
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(endpoint) = &self.otlp_endpoint {
            if !cfg!(feature = "otlp") {
                wrong.push("telemetry.otlp_endpoint needs a binary that was built with the feature `otlp`".to_owned());
            }
            // What cannot be read may hold a password; it is not shown.
            if Endpoint::parse(endpoint).is_err() {
                wrong.push("telemetry.otlp_endpoint must be http://HOST[:PORT][/PATH] or https://…".to_owned());
            }
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            wrong.push(format!("telemetry.sample_ratio is {}; it must be between 0 and 1", self.sample_ratio));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_none_is_refused_without_showing_it() {
        for (endpoint, ratio, faults) in [
            (None, 1.0, 0),
            (None, 0.0, 0),
            (None, 1.1, 1),
            (None, f64::NAN, 1),
            (Some("http://127.0.0.1:4318"), 0.5, 0),
            (Some("https://otel.example.com/base"), 1.0, 0),
            (Some("http://me:canary@otel.example.com"), 1.0, 1),
            (Some("otel.example.com:4318"), -1.0, 2),
        ] {
            let config = TelemetryConfig { otlp_endpoint: endpoint.map(str::to_owned), sample_ratio: ratio }.wrong();
            let without = usize::from(endpoint.is_some() && !cfg!(feature = "otlp"));
            assert_eq!(config.len(), faults + without, "{endpoint:?} {ratio}: {config:?}");
            assert!(config.iter().all(|line| !line.contains("canary")), "{config:?}");
        }
    }
}
