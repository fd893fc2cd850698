//! The Anthropic dialect: message batches under `/v1/messages/batches`.

pub(super) mod batches;
pub(super) mod create;
