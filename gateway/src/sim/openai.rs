//! The OpenAI dialect: files and batches under `/v1`.

pub(super) mod batches;
pub(super) mod files;

use serde_json::{Value, json};

/// The list envelope: first and last id, and whether there is more.
fn page(data: Vec<Value>, has_more: bool) -> Value {
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({
        "object": "list", "first_id": id(data.first()), "last_id": id(data.last()),
        "data": data, "has_more": has_more,
    })
}
