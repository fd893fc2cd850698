//! In place of the exporter in a binary without it. A receiver that is set is refused with the settings.

use super::TelemetryConfig;
use actors::traces::Traces;
use tokio::runtime::Handle;

pub struct Exporter;

impl Exporter {
    pub fn start(_: &TelemetryConfig, _: &str, _: &Handle) -> (Traces, Option<Exporter>) {
        (Traces::off(), None)
    }

    pub async fn finish(self) {}
}
