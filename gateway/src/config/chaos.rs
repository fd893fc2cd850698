//! The section about killing parts of it on purpose.

use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChaosConfig {
    /// Whether whoever has a key of the scope `chaos` may kill this node's actors.
    pub enabled: bool,
}
