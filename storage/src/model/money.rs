//! Money as integer nano-dollars: no floats, no rounding surprises, sums that are exact.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

const NANOS_PER_USD: i64 = 1_000_000_000;

/// An amount in nano-dollars (10⁻⁹ US dollar). Arithmetic saturates instead of wrapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i64);

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMoney(String);

impl Money {
    pub const ZERO: Money = Money(0);
    pub const MAX: Money = Money(i64::MAX);

    pub const fn from_nanos(nanos: i64) -> Money {
        Money(nanos)
    }

    /// Rounds pico-dollars up to whole nano-dollars, so that no fraction is ever given away.
    pub fn from_picos_up(picos: i128) -> Money {
        let nanos = picos.div_euclid(1_000) + i128::from(picos.rem_euclid(1_000) > 0);
        Money(i64::try_from(nanos).unwrap_or(if nanos > 0 { i64::MAX } else { i64::MIN }))
    }

    pub const fn nanos(self) -> i64 {
        self.0
    }

    pub fn saturating_sub(self, other: Money) -> Money {
        Money(self.0.saturating_sub(other.0))
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Money;
    fn sub(self, other: Money) -> Money {
        self.saturating_sub(other)
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        amounts.fold(Money::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    /// Decimal dollars without a sign, at least two digits after the point: `0.00`, `1.50`, `0.000045`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let whole = self.0.unsigned_abs() / NANOS_PER_USD as u64;
        let fraction = format!("{:09}", self.0.unsigned_abs() % NANOS_PER_USD as u64);
        let kept = fraction.trim_end_matches('0').len().max(2);
        write!(f, "{sign}{whole}.{}", &fraction[..kept])
    }
}

impl FromStr for Money {
    type Err = BadMoney;

    /// Reads decimal dollars such as `5`, `0.25` or `$1.5`; at most nine digits after the point.
    fn from_str(text: &str) -> Result<Money, BadMoney> {
        let bad = || BadMoney(text.to_owned());
        let digits = text.trim().strip_prefix('$').unwrap_or(text.trim());
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty())
            || fraction.len() > 9
            || !all_digits(whole)
            || !all_digits(fraction)
        {
            return Err(bad());
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
        let nanos = whole.checked_mul(NANOS_PER_USD).and_then(|n| n.checked_add(fraction));
        nanos.map(Money).ok_or_else(bad)
    }
}

impl fmt::Display for BadMoney {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an amount in dollars (for example 5 or 0.25)", self.0)
    }
}

impl std::error::Error for BadMoney {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_amount_are_two_forms_of_one_thing() {
        for (text, nanos) in [("0.00", 0), ("1.50", 1_500_000_000), ("0.000045", 45_000), ("12.00", 12 * NANOS_PER_USD)]
        {
            assert_eq!(text.parse::<Money>(), Ok(Money::from_nanos(nanos)));
            assert_eq!(Money::from_nanos(nanos).to_string(), text);
        }
        assert_eq!("$2".parse::<Money>(), Ok(Money::from_nanos(2 * NANOS_PER_USD)));
    }

    #[test]
    fn what_is_not_money_is_refused() {
        for text in ["", ".", "-1", "1e3", "1.0000000001", "NaN", "99999999999999999999", "1,5"] {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_of_a_nano_dollar_round_up() {
        assert_eq!(Money::from_picos_up(1), Money::from_nanos(1));
        assert_eq!(Money::from_picos_up(1_000), Money::from_nanos(1));
        assert_eq!(Money::from_picos_up(1_001), Money::from_nanos(2));
        assert_eq!(Money::from_picos_up(i128::MAX), Money::MAX);
    }
}
