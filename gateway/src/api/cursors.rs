//! Where a list goes on.

use crate::http::problem::Problem;

#[derive(Debug, Clone, Copy)]
pub struct Cursors;

impl Cursors {
    pub fn write(&self, id: &str, _: &str) -> String {
        id.to_owned()
    }

    pub fn read(&self, cursor: &str, _: &str) -> Result<String, Problem> {
        Ok(cursor.to_owned())
    }
}
