//! The bad requests of the catalogue, as data: what is sent, and which statuses are right.
//!
//! Rows that are no single request have tests of their own: 42, 43, 66, 78, 107, 133 and 139 in `alone`, 79 in
//! `executors`, 115, 128 and 129 in `security`.

mod addresses;
mod bodies;
mod framing;

/// One case of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number in the catalogue.
    pub number: u16,
    pub send: Send,
    /// The statuses that are right; 0 is a connection that is closed without a word.
    pub right: &'static [u16],
    /// The `code` of the problem, where only one is right.
    pub code: Option<&'static str>,
}

/// What goes over the wire. In bytes, `{host}`, `{auth}`, `{post}`, `{get}`, `{body}` and `{length}` stand for
/// the server's name, the header with the key, the beginnings of two good requests, and a good body.
#[derive(Debug, Clone, Copy)]
pub enum Send {
    Bytes(&'static [u8]),
    Built(fn() -> Vec<u8>),
    /// Then the client sends no more but still listens.
    HalfClosed(&'static [u8]),
    /// Then the client is gone.
    Aborted(&'static [u8]),
    /// Then the client waits.
    Stalled(&'static [u8]),
    /// Then one byte after the other, without an end.
    Dripping(&'static [u8], u8),
    /// Two good requests in one piece.
    Pipelined,
    /// The body of a `POST /api/v1/runs`.
    Body(&'static [u8]),
    BuiltBody(fn() -> Vec<u8>),
    /// A good body of this many bytes more than the server's limit.
    Sized(i64),
    /// The same, chunked.
    SizedChunks(i64),
    /// The body of a `POST /api/v1/runs/batch`.
    Batch(fn() -> Vec<u8>),
    Get(&'static str),
    BuiltGet(fn() -> String),
    /// A good list with these headers too.
    With(&'static [(&'static str, &'static str)]),
    /// A good list with these headers and no key.
    Bare(&'static [(&'static str, &'static str)]),
    /// A good create with these headers in place of its content type.
    PostWith(&'static [(&'static str, &'static str)]),
}

/// The statuses of a request that was carried out.
pub const DONE: &[u16] = &[200, 201, 202];
/// Well-formed, whatever a server knows about it.
pub const WELL_FORMED: &[u16] = &[200, 201, 202, 404, 422];
const BAD: &[u16] = &[400];

impl Row {
    const fn new(number: u16, send: Send, right: &'static [u16]) -> Row {
        Row { number, send, right, code: None }
    }

    /// A chunk that cannot be read: the framework takes the client for gone, and sends the handler's answer only
    /// if that is ready at once. A handler that first has to look up a key is cut off without a word.
    const fn reset(number: u16, send: Send) -> Row {
        Row::new(number, send, &[400, 0])
    }

    const fn bad(number: u16, send: Send) -> Row {
        Row::new(number, send, BAD)
    }

    const fn code(self, code: &'static str) -> Row {
        Row { code: Some(code), ..self }
    }
}

/// Every row, in the order of the catalogue.
pub fn all() -> Vec<Row> {
    [framing::ROWS, bodies::ROWS, addresses::ROWS].concat()
}
