//! The price table in the binary, and what an operator puts over it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Rates;

const BUILTIN: &str = include_str!("../../../ops/prices.toml");

/// An unreadable table prices nothing, and what is unpriced is refused under a cap: the safe way to be broken.
static TABLE: LazyLock<PriceTable> = LazyLock::new(|| PriceTable::parse(BUILTIN).unwrap_or_default());

/// Bytes of the digest that name a version of the table.
const VERSION_BYTES: usize = 6;

/// Prices of models, with where they come from.
#[derive(Debug, Clone, Default)]
pub struct PriceTable {
    source: String,
    date: String,
    version: String,
    models: HashMap<String, Rates>,
}

/// Why a text is not a price table.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    #[error("the price table cannot be read: {0}")]
    Unreadable(#[from] toml::de::Error),
    #[error("the price table's date `{date}` is not of the form YYYY-MM-DD")]
    BadDate { date: String },
    #[error("the price table has no `{key}`")]
    Missing { key: &'static str },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableText {
    source: Option<String>,
    date: Option<String>,
    #[serde(default)]
    models: HashMap<String, Rates>,
}

impl PriceTable {
    /// The table that was shipped with this binary.
    pub fn builtin() -> &'static PriceTable {
        &TABLE
    }

    /// This table with the entries of another over it, whole models at a time. The text has the shape of
    /// `ops/prices.toml`; `source` and `date` may be left out, a `date` that is given becomes the table's.
    pub fn with_overrides(&self, toml_text: &str) -> Result<PriceTable, PriceError> {
        let over = read(toml_text)?;
        let mut merged = self.clone();
        merged.models.extend(over.models);
        merged.source = format!("{} + {}", self.source, over.source.as_deref().unwrap_or("overrides"));
        merged.date = over.date.unwrap_or(merged.date);
        merged.version = version_of(&[&self.version, toml_text]);
        Ok(merged)
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The day the prices were taken, as `YYYY-MM-DD`.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// Short digest of the table's text, to be stored with each run that it priced.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The rates of a model by its exact name, else by its name without a date at the end. Nothing fuzzier: a
    /// wrong price is worse than none.
    pub fn rates(&self, model: &str) -> Option<&Rates> {
        self.models.get(model).or_else(|| self.models.get(without_date(model)?))
    }

    fn parse(text: &str) -> Result<PriceTable, PriceError> {
        let table = read(text)?;
        Ok(PriceTable {
            source: table.source.ok_or(PriceError::Missing { key: "source" })?,
            date: table.date.ok_or(PriceError::Missing { key: "date" })?,
            version: version_of(&[text]),
            models: table.models,
        })
    }
}

fn read(text: &str) -> Result<TableText, PriceError> {
    let table: TableText = toml::from_str(text)?;
    match table.date {
        Some(date) if !is_date(&date) => Err(PriceError::BadDate { date }),
        Some(_) | None => Ok(table),
    }
}

fn version_of(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let mut hex = String::with_capacity(2 * VERSION_BYTES);
    for byte in digest.finalize().iter().take(VERSION_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The name before `-2024-08-06` or `-20250929`, if it ends in such a date.
fn without_date(model: &str) -> Option<&str> {
    let dashed = model.len().checked_sub(11).and_then(|at| model.split_at_checked(at));
    let solid = model.len().checked_sub(9).and_then(|at| model.split_at_checked(at));
    let has_date = |end: &str| {
        let Some(date) = end.strip_prefix('-') else { return false };
        is_date(date) || (date.len() == 8 && date.starts_with("20") && is_digits(date))
    };
    let named = [dashed, solid].into_iter().flatten().find(|(_, end)| has_date(end));
    named.map(|(name, _)| name).filter(|name| !name.is_empty())
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [4, 2, 2] && text.starts_with("20") && parts.iter().all(|part| is_digits(part))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::super::BatchPrice;
    use super::*;
    use storage::model::Money;

    #[test]
    fn the_builtin_table_is_readable_and_names_its_source() {
        let table = PriceTable::parse(BUILTIN).unwrap();
        assert!(table.source().starts_with("litellm "));
        assert!(is_date(table.date()));
        assert_eq!(table.version().len(), 2 * VERSION_BYTES);
        assert_eq!(PriceTable::builtin().version(), table.version());
        assert!(BUILTIN.contains("MIT License") && BUILTIN.contains("sha256"));
    }

    #[test]
    fn every_builtin_model_has_sane_rates() {
        for (name, rates) in &PriceTable::builtin().models {
            assert!(rates.input > 0, "{name}");
            assert!(rates.cached_input.is_none_or(|cached| cached <= rates.input), "{name}");
            assert!(rates.cache_write.is_none_or(|written| written >= rates.input), "{name}");
            assert!(rates.output == 0 || rates.output >= rates.input, "{name}");
            assert_eq!(rates.output == 0, name.starts_with("text-embedding"), "{name}");
            assert!(
                rates.long.as_ref().is_none_or(|long| long.input >= rates.input && long.above >= 100_000),
                "{name}"
            );
        }
    }

    #[test]
    fn known_models_have_their_batch_price() {
        let cases = [
            ("gpt-4o-mini", 75_000, 37_500, 300_000, BatchPrice::Listed),
            ("gpt-4-turbo", 5_000_000, 5_000_000, 15_000_000, BatchPrice::Half),
            ("gpt-5.4", 1_250_000, 130_000, 7_500_000, BatchPrice::Listed),
            ("claude-sonnet-4-5", 1_500_000, 150_000, 7_500_000, BatchPrice::Listed),
        ];
        for (model, input, cached, output, batch) in cases {
            let rates = PriceTable::builtin().rates(model).unwrap();
            let found = (rates.input, rates.cached_input.unwrap_or(rates.input), rates.output, rates.batch);
            assert_eq!(found, (input, cached, output, batch), "{model}");
        }
    }

    #[test]
    fn a_million_tokens_cost_what_the_price_list_says() {
        let rates = PriceTable::builtin().rates("gpt-4o-mini").unwrap();
        let usage = super::super::Usage { input: 1_000_000, output: 1_000_000, ..Default::default() };
        assert_eq!(rates.cost(&usage), "0.375".parse::<Money>().unwrap());
    }

    #[test]
    fn a_date_may_be_left_off_and_nothing_else() {
        let table = PriceTable::builtin();
        for model in ["gpt-5", "gpt-5-2031-01-31", "claude-opus-4-5-20310131", "gpt-4o-2024-08-06"] {
            assert!(table.rates(model).is_some(), "{model}");
        }
        for model in ["gpt-5-turbo", "GPT-5", "gpt-5-", "gpt", "", "-2024-08-06", "-20240806", "openai/gpt-5", "gpt-5 "]
        {
            assert!(table.rates(model).is_none(), "{model}");
        }
        for model in ["gpt-5-1234-08-06", "gpt-5-2024-8-06", "gpt-5-2024-08-06-x", "gpt-5é2024-08-06", "é-2024-08-06"]
        {
            assert!(table.rates(model).is_none(), "{model}");
        }
    }

    #[test]
    fn what_a_batch_cannot_be_priced_by_tokens_alone_is_unpriced() {
        for model in ["gpt-audio", "gpt-4o-search-preview", "o3-deep-research", "gpt-realtime", "dall-e-3"] {
            assert!(PriceTable::builtin().rates(model).is_none(), "{model}");
        }
    }

    #[test]
    fn overrides_replace_whole_models_and_change_the_version() {
        let base = PriceTable::builtin();
        let text = "date = \"2030-01-01\"\n[models]\n\"gpt-5\" = { input = 7, output = 8 }\n[models.mine]\ninput = 1\noutput = 2";
        let table = base.with_overrides(text).unwrap();
        assert_eq!(table.rates("gpt-5").map(|rates| (rates.input, rates.output)), Some((7, 8)));
        assert_eq!(table.rates("mine").map(|rates| rates.output), Some(2));
        assert_eq!(table.rates("o3"), base.rates("o3"));
        assert_eq!((table.date(), table.source().ends_with("+ overrides")), ("2030-01-01", true));
        assert_ne!(table.version(), base.version());
        assert_eq!(table.version(), base.with_overrides(text).unwrap().version());
    }

    #[test]
    fn an_override_that_does_not_fit_is_refused() {
        let cases = [
            "[models]\nx = { input = 1, ouput = 2 }",
            "[models]\nx = { output = 2 }",
            "[models]\nx = { input = 1 }",
            "[models]\nx = { input = -1, output = 2 }",
            "[models]\nx = { input = 1.5, output = 2 }",
            "[models]\nx = { input = 1, output = 2, long = { input = 2 } }",
            "model = 1",
            "date = \"yesterday\"",
            "not toml",
        ];
        for text in cases {
            assert!(PriceTable::builtin().with_overrides(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_survive_being_stored_with_a_run() {
        for rates in PriceTable::builtin().models.values() {
            let stored = serde_json::to_string(rates).unwrap();
            assert_eq!(&serde_json::from_str::<Rates>(&stored).unwrap(), rates);
        }
    }
}
