//! Server-sent events, taken apart as they come.

/// What an unfinished event may hold; a stream that has more in one is none of ours.
const EVENT_MAX: usize = 4 << 20;

/// One event. Without an `event` field its name is `message`, as the standard has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: String,
}

/// Takes bytes as they arrive, gives events as they are complete.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte was a CR, so that an LF after it belongs to the same line end.
    after_cr: bool,
    id: Option<String>,
    name: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// The events that these bytes complete; `None` when this is no stream of events of ours.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        for byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.line(&String::from_utf8_lossy(&line)));
                }
                byte => self.line.push(*byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > EVENT_MAX {
                return None;
            }
        }
        Some(events)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (id, name) = (self.id.take(), self.name.take());
            let data = self.data.take()?;
            return Some(Event { id, name: name.unwrap_or_else(|| "message".to_owned()), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => self.name = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // Comments, and fields that nobody knows.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": following\n\nid: 0-accepted\nevent: accepted\ndata: {\"a\":1}\n\ndata: x\ndata:y\n\n: still \
                          here\n\nevent: end\r\ndata: {}\r\n\r\nevent: unfinished\n";

    fn all(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        pieces.iter().flat_map(|piece| parser.feed(piece).expect("small")).collect()
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let whole = all(&[STREAM.as_bytes()]);
        let event = |id: Option<&str>, name: &str, data: &str| Event {
            id: id.map(str::to_owned),
            name: name.to_owned(),
            data: data.to_owned(),
        };
        let expected = [
            event(Some("0-accepted"), "accepted", "{\"a\":1}"),
            event(None, "message", "x\ny"),
            event(None, "end", "{}"),
        ];
        assert_eq!(whole, expected);
        for at in 0..STREAM.len() {
            let (head, tail) = STREAM.as_bytes().split_at(at);
            assert_eq!(all(&[head, tail]), expected, "cut at {at}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused_before_it_fills_the_memory() {
        let mut parser = Parser::default();
        let line = vec![b'x'; 1 << 20];
        assert!((0..5).any(|_| parser.feed(&line).is_none()));
    }
}
