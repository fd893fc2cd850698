//! The section about killing parts of it on purpose.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChaosConfig {
    /// Whether whoever has a key of the scope `chaos` may kill this node's actors.
    pub enabled: bool,
}
