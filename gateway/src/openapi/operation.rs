//! What an operation of the API is made of.

/// One operation of the API.
#[derive(Debug)]
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub id: &'static str,
    pub tag: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub scope: &'static str,
    /// Of the query and the headers; those of the path follow from it.
    pub parameters: &'static [&'static str],
    pub body: Option<Body>,
    pub answers: &'static [Answer],
    /// Statuses of refusal beyond those that follow from the rest.
    pub refusals: &'static [u16],
}

#[derive(Debug)]
pub struct Body {
    pub forms: &'static [(&'static str, Shape)],
    pub example: Option<&'static str>,
    /// Otherwise it may be left away, and its type with it.
    pub required: bool,
}

/// An answer of success.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub what: &'static str,
    pub form: Option<(&'static str, Shape)>,
    pub headers: &'static [&'static str],
    pub example: Option<&'static str>,
}

/// What a body is.
#[derive(Debug)]
pub enum Shape {
    Named(&'static str),
    PageOf(&'static str),
    Text,
    Bytes,
}

pub const JSON: &str = "application/json";
pub const EVENTS: &str = "text/event-stream";

pub const fn json(name: &'static str) -> Option<(&'static str, Shape)> {
    Some((JSON, Shape::Named(name)))
}

pub const fn page(name: &'static str) -> Option<(&'static str, Shape)> {
    Some((JSON, Shape::PageOf(name)))
}

pub const fn ok(what: &'static str, form: Option<(&'static str, Shape)>) -> Answer {
    Answer { status: 200, what, form, headers: &[], example: None }
}

/// What an operator may ask for or want done; nothing of it has a body.
pub const fn of_operator(
    (method, path): (&'static str, &'static str),
    id: &'static str,
    summary: &'static str,
    scope: &'static str,
    description: &'static str,
    answers: &'static [Answer],
) -> Operation {
    Operation {
        method,
        path,
        id,
        tag: "operations",
        summary,
        description,
        scope,
        parameters: &[],
        body: None,
        answers,
        refusals: &[],
    }
}

/// An operation of the worker's protocol; each has a body of its own and a short answer.
pub const fn of_worker(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    body: Body,
    answers: &'static [Answer],
) -> Operation {
    Operation {
        method: "POST",
        path,
        id,
        tag: "workers",
        summary,
        description,
        scope: "workers",
        parameters: &[],
        body: Some(body),
        answers,
        refusals: &[404, 409],
    }
}

/// An operation on one job that has no body.
pub const fn of_job(
    (method, path): (&'static str, &'static str),
    id: &'static str,
    summary: &'static str,
    scope: &'static str,
    description: &'static str,
    answers: &'static [Answer],
    refusals: &'static [u16],
) -> Operation {
    let tag = "jobs";
    Operation { method, path, id, tag, summary, description, scope, parameters: &[], body: None, answers, refusals }
}

/// The same on one batch.
pub const fn of_batch(
    place: (&'static str, &'static str),
    id: &'static str,
    summary: &'static str,
    scope: &'static str,
    description: &'static str,
    answers: &'static [Answer],
    refusals: &'static [u16],
) -> Operation {
    Operation { tag: "batches", ..of_job(place, id, summary, scope, description, answers, refusals) }
}
