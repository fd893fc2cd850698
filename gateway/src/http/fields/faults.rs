//! Everything that is wrong with one request, collected so that the client hears it all at once.

use super::text;
use crate::http::problem::{Code, FieldError, Problem};

/// Errors that an answer names; a client with more of them is not helped by more.
const SHOWN_MAX: usize = 100;

/// Collects what is wrong, and which names were asked for.
#[derive(Debug, Default)]
pub(in crate::http) struct Faults {
    errors: Vec<FieldError>,
    asked: Vec<&'static str>,
    /// The gravest status wins, as the client has to mend that first.
    too_large: bool,
    too_many: bool,
}

impl Faults {
    pub fn add(&mut self, pointer: String, code: &'static str, detail: impl Into<String>) {
        self.too_large |= code == "too_large";
        self.too_many |= code == "too_many_items";
        if self.errors.len() < SHOWN_MAX {
            self.errors.push(FieldError { pointer, code, detail: detail.into() });
        }
    }

    pub fn asks(&mut self, name: &'static str) {
        self.asked.push(name);
    }

    pub fn knows(&self, name: &str) -> bool {
        self.asked.contains(&name)
    }

    /// A name that nobody asked for.
    pub fn unknown(&mut self, pointer: String, name: &str) {
        let near = text::nearest(name, self.asked.iter().copied());
        let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        self.add(pointer, "unknown_field", format!("{} is not known here{hint}", text::shown(name)));
    }

    pub fn absorb(&mut self, other: Faults) {
        for error in other.errors {
            self.add(error.pointer, error.code, error.detail);
        }
    }

    pub fn finish(self) -> Result<(), Problem> {
        let Some(first) = self.errors.first() else { return Ok(()) };
        let code = match () {
            () if self.too_large => Code::BodyTooLarge,
            () if self.too_many => Code::TooManyItems,
            () if self.errors.iter().all(|error| error.code == "unknown_field") => Code::UnknownField,
            () => Code::InvalidField,
        };
        let more = match self.errors.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let detail = format!("{}: {}{more}", first.pointer, first.detail);
        Err(Problem::new(code, detail).with_errors(self.errors))
    }
}
