//! The OpenAPI document of `/api/v1`, made from one table of operations that equals the table of routes.
//!
//! Made by hand: the types behind the handlers are borrowed views and raw JSON, about which a derive could say
//! less than this does. What keeps it true are tests, which hold it against the routes and a live server.

mod operation;
mod operations;
mod parameters;
mod runs;
mod workers;
mod jobs;
mod sessions;
mod sweeps;
mod chaos;
mod batches;
mod schemas;
mod examples;

pub use operation::{Operation, Shape};
pub use operations::OPERATIONS;

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::http::problem::{Code, MEDIA_TYPE};
use crate::stdout::print;
use operation::Answer;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What the paths of the table stand below.
pub const BASE: &str = "/api/v1";

/// `tidegate openapi`
pub fn run(output: Output) -> Result<Exit, Failure> {
    let document = document();
    print(&if output == Output::Table { format!("{document:#}\n") } else { format!("{document}\n") })?;
    Ok(Exit::Done)
}

/// The whole document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        paths.entry(operation.path).or_insert_with(|| json!({}))[operation.method.to_lowercase()] =
            described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Durable runs over HTTP.",
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        // Without keys, as `--auth none` and a fresh store on loopback have it, everybody is let in.
        "security": [{ "key": [] }, {}],
        "tags": operations::TAGS.iter().map(|(name, what)| json!({ "name": name, "description": what }))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "parameters": parameters::all(),
            "headers": parameters::headers(),
            "responses": { "Problem": problem("Anything else that is wrong; `code` says what.") },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `tidegate keys create`; it names its env, and what it may do.",
                },
            },
        },
    })
}

const DESCRIPTION: &str = "\
Runs are accepted, made durable, and carried out: by this server, or by pull workers that take them over HTTP.

Times are RFC 3339 in UTC, spans are seconds, unknown request fields are refused. Lists answer \
`{data, next_cursor, has_more}`; give `next_cursor` as `cursor` to go on. Everything that is wrong is told as \
`application/problem+json` with a stable `code`; `retryable` says whether the same request may succeed later. \
Another env's object is answered with 404.";

fn described(operation: &Operation) -> Value {
    let mut value = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": description(operation),
        "parameters": parameters(operation),
        "responses": answers(operation),
    });
    if let Some(body) = &operation.body {
        let mut content = Map::new();
        for (media, shape) in body.forms {
            content.insert((*media).to_owned(), media_type(shape, body.example.map(examples::named)));
        }
        value["requestBody"] = json!({ "required": body.required, "content": content });
    }
    value
}

fn description(operation: &Operation) -> String {
    let scope = format!("Needs the scope `{}`.", operation.scope);
    if operation.description.is_empty() { scope } else { format!("{} {scope}", operation.description) }
}

/// Those of the path, those of the table, and the env, which every operation takes.
fn parameters(operation: &Operation) -> Vec<Value> {
    let of_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let id = match operation.tag {
        "jobs" => "job_id",
        "sessions" => "session_id",
        "batches" => "batch_id",
        "operations" => "node_id",
        _ => "run_id",
    };
    let of_path = of_path.map(|name| if name == "id" { id } else { name });
    let names = of_path.chain(operation.parameters.iter().copied()).chain(["env"]);
    names.map(|name| json!({ "$ref": format!("#/components/parameters/{name}") })).collect()
}

fn answers(operation: &Operation) -> Value {
    let mut answers = Map::new();
    for answer in operation.answers {
        answers.insert(answer.status.to_string(), answered(answer));
    }
    for status in statuses(operation) {
        let titles: Vec<String> = Code::ALL
            .iter()
            .filter(|code| code.status().as_u16() == status)
            .map(|code| format!("`{}`: {}", code.word(), code.title()))
            .collect();
        answers.insert(status.to_string(), problem(&titles.join("; ")));
    }
    answers.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
    Value::Object(answers)
}

/// Whether an operation has parameters in its URL's query.
pub fn takes_query(operation: &Operation) -> bool {
    let all = parameters::all();
    operation.parameters.iter().any(|name| all[*name]["in"] == "query")
}

/// Every status with which an operation may refuse.
fn statuses(operation: &Operation) -> BTreeSet<u16> {
    // Credentials, the env's name, rates and the store are everybody's.
    let mut statuses = BTreeSet::from([400, 401, 403, 429, 500, 503]);
    if operation.path.contains('{') {
        statuses.insert(404);
    }
    // Even where none belongs, one may be sent.
    if operation.method != "GET" {
        statuses.extend([408, 413, 415]);
    }
    statuses.extend(operation.refusals);
    statuses
}

fn answered(answer: &Answer) -> Value {
    let mut value = json!({ "description": answer.what });
    if let Some((media, shape)) = &answer.form {
        value["content"] = json!({ (*media): media_type(shape, answer.example.map(examples::named)) });
    }
    if !answer.headers.is_empty() {
        let headers: Map<String, Value> = answer
            .headers
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") })))
            .collect();
        value["headers"] = Value::Object(headers);
    }
    value
}

fn media_type(shape: &Shape, example: Option<Value>) -> Value {
    let schema = match shape {
        Shape::Named(name) => reference(name),
        Shape::PageOf(name) => json!({
            "allOf": [reference("Page"), { "type": "object", "properties": { "data": { "items": reference(name) } } }]
        }),
        Shape::Text => json!({ "type": "string" }),
        Shape::Bytes => json!({}),
    };
    match example {
        Some(example) => json!({ "schema": schema, "example": example }),
        None => json!({ "schema": schema }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn problem(what: &str) -> Value {
    json!({ "description": what, "content": { MEDIA_TYPE: { "schema": reference("Problem") } } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ROUTES;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let documented: BTreeSet<(&str, &str)> =
            OPERATIONS.iter().map(|operation| (operation.method, operation.path)).collect();
        let routes: BTreeSet<(&str, &str)> = ROUTES.iter().copied().collect();
        let missing: Vec<_> = routes.difference(&documented).collect();
        let gone: Vec<_> = documented.difference(&routes).collect();
        assert!(missing.is_empty() && gone.is_empty(), "not documented: {missing:?}; not there: {gone:?}");
        assert_eq!(documented.len(), OPERATIONS.len(), "an operation is there twice");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_part_is_used_by_something() {
        let text = document().to_string();
        for kind in ["schemas", "parameters", "headers"] {
            let parts = document()["components"][kind].as_object().expect("parts").clone();
            for name in parts.keys() {
                assert!(text.contains(&format!("\"#/components/{kind}/{name}\"")), "{kind}/{name} is used by nothing");
            }
        }
    }

    #[test]
    fn scopes_and_operation_ids_are_real_and_unique() {
        let scopes: Vec<&str> = crate::http::keys::Scope::ALL.iter().map(|scope| scope.word()).collect();
        let ids: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        for operation in OPERATIONS {
            assert!(scopes.contains(&operation.scope), "{}", operation.scope);
            assert!(!operation.summary.is_empty() && !operation.answers.is_empty(), "{}", operation.id);
        }
    }

    #[test]
    fn every_status_that_a_problem_can_have_is_a_status_of_the_catalogue() {
        for operation in OPERATIONS {
            for status in statuses(operation) {
                let known = Code::ALL.iter().any(|code| code.status().as_u16() == status);
                assert!(known, "{} {status}", operation.id);
            }
        }
    }
}
