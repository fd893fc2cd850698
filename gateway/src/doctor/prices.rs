//! The price table: whether it can be read, where it comes from, and how old it is.

use super::Check;
use crate::config::Config;
use actors::price::PriceTable;
use storage::model::Timestamp;

const NAME: &str = "prices";
const OLD_DAYS: i64 = 90;

pub fn checks(config: &Config, now: Timestamp) -> Vec<Check> {
    let builtin = PriceTable::builtin();
    let Some(path) = &config.prices.file else { return vec![age(builtin, now)] };
    let fix = "give it the form of ops/prices.toml, or remove `file` under [prices]";
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return vec![Check::fail(NAME, format!("cannot read {}: {error}", path.display()), fix)],
    };
    match builtin.with_overrides(&text) {
        Ok(table) => vec![age(&table, now)],
        Err(error) => vec![Check::fail(NAME, format!("{}: {error}", path.display()), fix)],
    }
}

fn age(table: &PriceTable, now: Timestamp) -> Check {
    let (source, date) = (table.source(), table.date());
    match days_of(date).map(|day| now.millis().div_euclid(86_400_000) - day) {
        Some(days) if days <= OLD_DAYS => Check::ok(NAME, format!("{source} of {date}, {days} days old")),
        Some(days) => {
            let fix = "use a newer tidegate, or a table of your own as `file` under [prices]";
            Check::warn(NAME, format!("{source} of {date} is {days} days old"), fix)
        }
        None => Check::fail(NAME, format!("{source} names no day (`{date}`)"), "use a binary whose table is whole"),
    }
}

/// Days from 1970-01-01 to a date. After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`.
fn days_of(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn days_are_counted_by_the_calendar() {
        for (date, days) in [("1970-01-01", 0), ("2000-02-29", 11_016), ("2026-11-21", 20_778)] {
            assert_eq!(days_of(date), Some(days), "{date}");
            let midnight = Timestamp::from_millis(days * 86_400_000).to_string();
            assert!(midnight.starts_with(date), "{midnight}");
        }
        for bad in ["", "2026", "2026-13-01", "2026-01-00", "x-y-z"] {
            assert_eq!(days_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_table_of_last_season_deserves_a_look() {
        let table = PriceTable::builtin();
        let day = days_of(table.date()).expect("a date");
        let at = |days: i64| Timestamp::from_millis((day + days) * 86_400_000);
        assert_eq!(age(table, at(90)).verdict, Verdict::Ok);
        assert_eq!(age(table, at(91)).verdict, Verdict::Warn);
    }
}
