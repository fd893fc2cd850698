//! A node: one incarnation of one process. A restart is a new node.

use super::machine::state_machine;

state_machine! {
    /// Where a node stands.
    states NodeState {
        Starting = "starting",
        Live = "live",
        Draining = "draining",
        Gone = "gone",
    }
    /// What can happen to a node.
    events NodeEvent {
        CameUp = "came_up",
        AskedToDrain = "asked_to_drain",
        LeaseLapsed = "lease_lapsed",
        Left = "left",
    }
    edges {
        Starting + CameUp => Live,
        Live + AskedToDrain => Draining,
        Live + LeaseLapsed => Gone,
        Live + Left => Gone,
        Draining + LeaseLapsed => Gone,
        Draining + Left => Gone,
    }
}

#[cfg(test)]
const INITIAL: &[NodeState] = &[NodeState::Starting];
