//! Which characters a text may have, and how a text of the client's is shown back to it.

use std::ops::RangeInclusive;

/// Characters of a client's text that a message repeats.
const SHOWN_MAX: usize = 64;

/// Who may read a text decides what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Names that stand in URLs, metrics and files: ASCII letters, digits, `.`, `_` and `-`. Compared byte by
    /// byte, so that no two of them look alike.
    Name,
    /// Keys that clients make up: printable ASCII without spaces.
    Visible,
    /// One line that people read: anything but control, invisible and direction-changing characters.
    Line,
}

impl Charset {
    fn allows(self, c: char) -> bool {
        match self {
            Charset::Name => c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
            Charset::Visible => c.is_ascii_graphic(),
            Charset::Line => !c.is_control() && !is_deceptive(c),
        }
    }

    const fn rule(self) -> &'static str {
        match self {
            Charset::Name => "may have only ASCII letters, digits, `.`, `_` and `-`",
            Charset::Visible => "may have only printable ASCII characters, and no spaces",
            Charset::Line => "must not have control, invisible or direction-changing characters",
        }
    }
}

/// Characters that cannot be seen, or that change how their neighbours are shown.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Why a text is refused: a code and its words.
pub(in crate::http) type Refusal = (&'static str, String);

pub(in crate::http) fn check(text: &str, chars: &RangeInclusive<usize>, charset: Charset) -> Result<(), Refusal> {
    // A character has a byte at least, so that a long text is refused without counting.
    let count = if text.len() > chars.end() * 4 { text.len() } else { text.chars().count() };
    if !chars.contains(&count) {
        return Err(("length", format!("must have {} to {} characters", chars.start(), chars.end())));
    }
    match text.chars().find(|c| !charset.allows(*c)) {
        None => Ok(()),
        Some(c) => Err(("charset", format!("{}; it has {c:?}", charset.rule()))),
    }
}

/// A client's text for a message: quoted, escaped so that it cannot break a line, and not all of it.
pub(in crate::http) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// The first characters of a name.
pub(in crate::http) fn cut(name: &str) -> &str {
    name.char_indices().nth(SHOWN_MAX).map_or(name, |(end, _)| &name[..end])
}

/// One step of a JSON pointer (RFC 6901); a key that is absurdly long is cut.
pub(in crate::http) fn pointer(key: &str) -> String {
    format!("/{}", cut(key).replace('~', "~0").replace('/', "~1"))
}

/// The known name that was probably meant.
pub(in crate::http) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if given.len() > SHOWN_MAX {
        return None;
    }
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(given, name), name));
    near.min().filter(|(distance, name)| *distance <= 1 + name.len() / 4).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_held_to_its_length_and_its_characters() {
        let long = "n".repeat(128);
        let longer = "n".repeat(129);
        let cases: [(&str, Charset, Option<&str>); 19] = [
            ("", Charset::Name, Some("length")),
            ("n", Charset::Name, None),
            (&long, Charset::Name, None),
            (&longer, Charset::Name, Some("length")),
            ("resize-image_2.x", Charset::Name, None),
            ("a b", Charset::Name, Some("charset")),
            ("a/b", Charset::Name, Some("charset")),
            ("a\u{200b}b", Charset::Name, Some("charset")),
            ("ı", Charset::Name, Some("charset")),
            ("а", Charset::Name, Some("charset")),
            ("key:1/2", Charset::Visible, None),
            ("key 1", Charset::Visible, Some("charset")),
            ("ключ", Charset::Visible, Some("charset")),
            ("a tag, with ключ and 👍", Charset::Line, None),
            ("a\nb", Charset::Line, Some("charset")),
            ("a\u{202e}b", Charset::Line, Some("charset")),
            ("a\u{2028}b", Charset::Line, Some("charset")),
            ("a\u{7f}", Charset::Line, Some("charset")),
            ("\u{feff}a", Charset::Line, Some("charset")),
        ];
        for (text, charset, code) in cases {
            assert_eq!(check(text, &(1..=128), charset).err().map(|(code, _)| code), code, "{text:?} {charset:?}");
        }
    }

    #[test]
    fn length_counts_characters() {
        assert_eq!(check(&"é".repeat(128), &(1..=128), Charset::Line), Ok(()));
        assert!(check(&"é".repeat(129), &(1..=128), Charset::Line).is_err());
        assert!(check(&"👍".repeat(100_000), &(1..=128), Charset::Line).is_err());
    }

    #[test]
    fn what_is_shown_back_is_short_and_on_one_line() {
        assert_eq!(shown("a\n\u{1b}[31m"), r#""a\n\u{1b}[31m""#);
        assert!(shown(&"x".repeat(10_000)).len() < 80);
        assert_eq!(pointer("a/b~c"), "/a~1b~0c");
    }

    #[test]
    fn the_nearest_name_is_offered_only_if_it_is_near() {
        let known = ["task", "payload", "max_attempts"];
        assert_eq!(nearest("Task", known), Some("task"));
        assert_eq!(nearest("max_attempt", known), Some("max_attempts"));
        assert_eq!(nearest("colour", known), None);
    }
}
