//! W3C Trace Context (level 2): of which trace something is, and whose child.

use std::fmt;

/// What the header `traceparent` says: a trace, and the span in it that a new one is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: u128,
    parent: u64,
    flags: u8,
}

/// Somebody records this trace.
const SAMPLED: u8 = 0x01;
/// The id of the trace is random in its last seven bytes at least.
const RANDOM: u8 = 0x02;
/// Length of version 00, and the least of every other version.
const LENGTH: usize = 55;

impl TraceParent {
    /// A new trace that is recorded, whose first span is `root`. A trace without bits, or a span, is none.
    pub fn begin(trace: u128, root: u64) -> TraceParent {
        TraceParent { trace: trace.max(1), parent: root.max(1), flags: SAMPLED | RANDOM }
    }

    /// Reads the header's value. What is no such value is nobody's fault: the trace then begins anew. A version that
    /// is not known yet is read as far as version 00 goes.
    pub fn parse(text: &str) -> Option<TraceParent> {
        let bytes = text.as_bytes();
        let version = hex(bytes.get(0..2)?)?;
        let fits = match version {
            0 => bytes.len() == LENGTH,
            0xff => false,
            _ => bytes.len() == LENGTH || bytes.get(LENGTH) == Some(&b'-'),
        };
        if !fits || [2, 35, 52].iter().any(|at| bytes.get(*at) != Some(&b'-')) {
            return None;
        }
        let trace = hex(bytes.get(3..35)?)?;
        let parent = u64::try_from(hex(bytes.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(bytes.get(53..55)?)?).ok()? & (SAMPLED | RANDOM);
        (trace != 0 && parent != 0).then_some(TraceParent { trace, parent, flags })
    }

    pub fn trace(self) -> u128 {
        self.trace
    }

    /// The span that a new one is a child of.
    pub fn parent(self) -> u64 {
        self.parent
    }

    /// As whoever shows it writes it.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same trace, for children of another span.
    pub fn within(self, span: u64) -> TraceParent {
        TraceParent { parent: span, ..self }
    }
}

/// Digits in lower case, as the standard has them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        for flags in ["00", "01", "02", "03"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let read = TraceParent::parse(&text).expect(&text);
            assert_eq!((read.to_string(), read.trace_id()), (text, TRACE.to_owned()));
            assert_eq!(read.is_sampled(), ["01", "03"].contains(&flags));
        }
    }

    #[test]
    fn of_newer_versions_and_unknown_flags_what_is_known_is_kept() {
        let known = format!("00-{TRACE}-{SPAN}-01");
        for text in [
            format!("00-{TRACE}-{SPAN}-fd"),
            format!("01-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            format!("fe-{TRACE}-{SPAN}-09-"),
        ] {
            assert_eq!(TraceParent::parse(&text).expect(&text).to_string(), known, "{text}");
        }
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let zeros = |count| "0".repeat(count);
        for text in [
            String::new(),
            "00-zz-1-xx".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}"),
            format!("01-{TRACE}-{SPAN}-01.more"),
            format!("00-{}-{SPAN}-01", zeros(32)),
            format!("00-{TRACE}-{}-01", zeros(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("0é-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(TraceParent::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_new_trace_and_a_child_can_be_read_back() {
        for (trace, root) in [(0, 0), (u128::MAX, u64::MAX), (7, 9)] {
            let begun = TraceParent::begin(trace, root);
            assert_eq!(TraceParent::parse(&begun.to_string()), Some(begun));
            let child = begun.within(5);
            assert_eq!((child.trace(), child.parent(), child.is_sampled()), (begun.trace(), 5, true));
        }
    }
}
