//! Money as a setting.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use storage::model::Money;

/// Decimal dollars, in quotes or as a plain number: an environment variable has no quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dollars(pub Money);

impl<'de> Deserialize<'de> for Dollars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dollars, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Dollars {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Dollars;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("decimal dollars, such as \"12.50\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Dollars, E> {
        text.parse().map(Dollars).map_err(|_| E::custom(format!("`{text}` is not decimal dollars, such as \"12.50\"")))
    }

    fn visit_i64<E: Error>(self, whole: i64) -> Result<Dollars, E> {
        self.visit_str(&whole.to_string())
    }

    fn visit_f64<E: Error>(self, decimal: f64) -> Result<Dollars, E> {
        // The shortest text that reads as this number is what was written.
        self.visit_str(&decimal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Held {
        cap: Dollars,
    }

    #[test]
    fn dollars_are_read_as_they_were_written() {
        for (text, nanos) in
            [("\"12.50\"", 12_500_000_000), ("12.5", 12_500_000_000), ("3", 3_000_000_000), ("0.1", 100_000_000)]
        {
            let held: Held = toml::from_str(&format!("cap = {text}")).expect(text);
            assert_eq!(held.cap.0.nanos(), nanos, "{text}");
        }
        for text in ["\"a lot\"", "true", "-1", "1e400", "\"1,5\""] {
            toml::from_str::<Held>(&format!("cap = {text}")).expect_err(text);
        }
    }
}
