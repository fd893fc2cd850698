//! Pages made of the OpenAPI document: static, without a script, readable without a style.

use super::style::SHEET;
use crate::http::problem::Code;
use crate::openapi::{BASE, OPERATIONS};
use serde_json::Value;

const PYTHON: &str = include_str!("../../../../ops/examples/worker.py");
const SHELL: &str = include_str!("../../../../ops/examples/worker.sh");
/// Enough for every nesting that the document has.
const DEPTH_MAX: usize = 6;

/// Everything that the document says, on one page.
pub fn whole(document: &Value) -> String {
    let info = &document["info"];
    let mut html = format!("<h1>{} {}</h1>", text(&info["title"]), text(&info["version"]));
    html += &format!("<p>{}</p>", text(&info["summary"]));
    html += &paragraphs(&info["description"]);
    html += "<p>The same for programs: <a href=\"/api/openapi.json\">/api/openapi.json</a> (OpenAPI 3.1).</p>";
    html += &contents(document);
    for tag in list(&document["tags"]) {
        html += &format!("<h2>{}</h2>{}", text(&tag["name"]), paragraphs(&tag["description"]));
        for operation in OPERATIONS.iter().filter(|operation| Some(operation.tag) == tag["name"].as_str()) {
            html += &section(document, operation.method, operation.path);
        }
    }
    html += "<h2 id=\"pull-workers\">A pull worker, whole</h2>";
    html += &format!("<p>In Python:</p><pre><code>{}</code></pre>", escaped(PYTHON));
    html += &format!("<p>In a shell:</p><pre><code>{}</code></pre>", escaped(SHELL));
    html += "<h2 id=\"errors\">Errors</h2><table><thead><tr><th>status</th><th>code</th><th>what it says</th>\
             <th>again?</th></tr></thead><tbody>";
    html.extend(Code::ALL.iter().map(|code| error_row(*code)));
    html += "</tbody></table>";
    page("Tidegate API", &html)
}

/// What one error code means.
pub fn error(code: Code) -> String {
    let again = if code.retryable() {
        "The same request may succeed later, unchanged; <code>Retry-After</code> says when to try."
    } else {
        "The same request will not succeed unchanged."
    };
    let status = code.status();
    let html = format!(
        "<h1><code>{}</code></h1><p>{}.</p><p>It comes with the status {status}. {again}</p>\
         <p><a href=\"/api/docs#errors\">All errors</a></p>",
        code.word(),
        escaped(code.title())
    );
    page(code.word(), &html)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{}</title>\
         <style>{SHEET}</style></head><body><main>{body}</main></body></html>",
        escaped(title)
    )
}

fn contents(document: &Value) -> String {
    let mut html = "<nav aria-label=\"Operations\"><ul>".to_owned();
    for operation in OPERATIONS {
        let id = operation.id;
        let summary = &at(document, operation.method, operation.path)["summary"];
        html += &format!("<li><a href=\"#{id}\">{}</a></li>", text(summary));
    }
    html + "<li><a href=\"#pull-workers\">A pull worker, whole</a></li><li><a href=\"#errors\">Errors</a></li></ul></nav>"
}

fn at<'d>(document: &'d Value, method: &str, path: &str) -> &'d Value {
    &document["paths"][path][method.to_lowercase()]
}

fn section(document: &Value, method: &str, path: &str) -> String {
    let operation = at(document, method, path);
    let id = text(&operation["operationId"]);
    let mut html = format!("<h3 id=\"{id}\">{}</h3>", text(&operation["summary"]));
    html += &format!("<p><code><span class=\"method\">{method}</span>{}{}</code></p>", escaped(BASE), escaped(path));
    html += &paragraphs(&operation["description"]);
    html += &table("Parameters", ["name", "in", "type", "what"], &parameters(document, operation));
    let content = &operation["requestBody"]["content"];
    for (media, body) in members(content) {
        let mut rows = Vec::new();
        fields(document, &body["schema"], "", 0, &mut rows);
        html += &table(&format!("Body, {media}"), ["field", "", "type", "what"], &rows);
        html += &example(body);
    }
    for (status, answer) in members(&operation["responses"]).filter(|(status, _)| status.starts_with(['2', '3'])) {
        html += &format!("<p><strong>{}</strong>: {}</p>", escaped(status), text(&answer["description"]));
        for (media, form) in members(&answer["content"]) {
            let mut rows = Vec::new();
            fields(document, &form["schema"], "", 0, &mut rows);
            html += &table(&format!("Answer, {media}"), ["field", "", "type", "what"], &rows);
            html += &example(form);
        }
    }
    let refusals: Vec<String> = members(&operation["responses"])
        .filter(|(status, _)| status.starts_with(['4', '5']))
        .map(|(status, answer)| format!("<li>{}: {}</li>", escaped(status), text(&answer["description"])))
        .collect();
    html + &format!("<details><summary>Refusals</summary><ul>{}</ul></details>", refusals.concat())
}

fn parameters(document: &Value, operation: &Value) -> Vec<[String; 4]> {
    let row = |parameter: &Value| {
        let parameter = resolved(document, parameter);
        [
            format!("<code>{}</code>", text(&parameter["name"])),
            text(&parameter["in"]),
            kind(document, &parameter["schema"]),
            text(&parameter["description"]),
        ]
    };
    list(&operation["parameters"]).iter().map(row).collect()
}

/// A row for each field of an object, those of objects in it included.
fn fields(document: &Value, schema: &Value, prefix: &str, depth: usize, rows: &mut Vec<[String; 4]>) {
    if depth > DEPTH_MAX {
        return;
    }
    let schema = resolved(document, schema);
    for part in list(&schema["allOf"]) {
        fields(document, part, prefix, depth + 1, rows);
    }
    let required = list(&schema["required"]);
    for (name, field) in members(&schema["properties"]) {
        let name = format!("{prefix}{name}");
        let inner = resolved(document, field);
        let needed = required.iter().any(|required| prefix.to_owned() + required.as_str().unwrap_or_default() == name);
        let what = text(&inner["description"]);
        // The data of a page is told by its items.
        if !rows.iter().any(|row| row[0] == format!("<code>{name}</code>")) {
            let needed = if needed { "always" } else { "" };
            rows.push([format!("<code>{name}</code>"), needed.to_owned(), kind(document, inner), what]);
        }
        let nullable = list(&inner["oneOf"]).iter().find(|one| one["$ref"].is_string());
        fields(document, nullable.unwrap_or(inner), &format!("{name}."), depth + 1, rows);
        if inner["items"].is_object() {
            fields(document, &inner["items"], &format!("{name}[]."), depth + 1, rows);
        }
    }
}

/// A type in a few words.
fn kind(document: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    let words = |values: &Value| list(values).iter().map(text).collect::<Vec<_>>().join(" | ");
    if schema["enum"].is_array() {
        return words(&schema["enum"]);
    }
    if schema["const"].is_string() {
        return text(&schema["const"]);
    }
    if schema["oneOf"].is_array() {
        let kinds: Vec<String> = list(&schema["oneOf"]).iter().map(|one| kind(document, one)).collect();
        return kinds.join(" | ");
    }
    let mut kind = match &schema["type"] {
        Value::Array(_) => words(&schema["type"]),
        Value::String(kind) => escaped(kind),
        _ => "any JSON".to_owned(),
    };
    if schema["format"].is_string() {
        kind += &format!(" ({})", text(&schema["format"]));
    }
    let range = [
        ("minimum", "≥"),
        ("maximum", "≤"),
        ("minLength", "length ≥"),
        ("maxLength", "length ≤"),
        ("minItems", "items ≥"),
        ("maxItems", "items ≤"),
    ];
    for (name, sign) in range {
        if schema[name].is_number() {
            kind += &format!(", {sign} {}", schema[name]);
        }
    }
    kind
}

fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn table(title: &str, heads: [&str; 4], rows: &[[String; 4]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escaped(head))).collect();
    let rows: String = rows
        .iter()
        .map(|row| format!("<tr>{}</tr>", row.iter().map(|cell| format!("<td>{cell}</td>")).collect::<String>()))
        .collect();
    format!("<table><caption>{}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>", escaped(title))
}

fn example(form: &Value) -> String {
    if form["example"].is_null() {
        return String::new();
    }
    format!("<pre><code>{}</code></pre>", escaped(&format!("{:#}", form["example"])))
}

fn error_row(code: Code) -> String {
    let (status, word) = (code.status().as_u16(), code.word());
    let again = if code.retryable() { "yes" } else { "no" };
    format!(
        "<tr><td>{status}</td><td><a href=\"/api/docs/errors/{word}\"><code>{word}</code></a></td><td>{}</td>\
         <td>{again}</td></tr>",
        escaped(code.title())
    )
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}

/// A text of the document, with what it marks as code in code style.
fn paragraphs(value: &Value) -> String {
    let marked = |text: &str| -> String {
        let parts = text.split('`').enumerate();
        parts
            .map(|(at, part)| if at % 2 == 0 { escaped(part) } else { format!("<code>{}</code>", escaped(part)) })
            .collect()
    };
    let text = value.as_str().unwrap_or_default();
    text.split("\n\n").filter(|text| !text.is_empty()).map(|text| format!("<p>{}</p>", marked(text))).collect()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_operation_and_every_error_and_no_script() {
        let html = whole(&crate::openapi::document());
        for operation in OPERATIONS {
            assert!(html.contains(&format!("<h3 id=\"{}\">", operation.id)), "{}", operation.id);
        }
        for code in Code::ALL {
            assert!(html.contains(&format!("/api/docs/errors/{}\"", code.word())), "{}", code.word());
        }
        for banned in ["<script", "style=\"", "onclick", "http://", "src="] {
            let own = html.replace(&escaped(PYTHON), "").replace(&escaped(SHELL), "");
            assert!(!own.contains(banned), "{banned}");
        }
    }

    #[test]
    fn fields_of_pages_and_of_objects_in_them_are_told() {
        let html = whole(&crate::openapi::document());
        for field in ["data[].id", "data[].outcome.code", "runs[].task", "next_cursor", "attempts[].started_at"] {
            assert!(html.contains(&format!("<code>{field}</code>")), "{field}");
        }
    }

    #[test]
    fn texts_cannot_become_markup() {
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
        assert_eq!(paragraphs(&Value::from("a `<b>` c\n\nd")), "<p>a <code>&lt;b&gt;</code> c</p><p>d</p>");
        assert!(error(Code::NotFound).contains("<code>not_found</code>"));
    }
}
