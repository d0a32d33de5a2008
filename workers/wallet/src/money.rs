//! Amounts: decimal text outside, integers of minor units inside.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most that one transfer or deposit can move, in minor units: ten trillion major ones.
pub const MAX_AMOUNT: i64 = 1_000_000_000_000_000;
/// Most that an account can hold after a credit, in minor units. What comes back to its sender may go beyond it, and has
/// as much room again.
pub const MAX_BALANCE: i64 = i64::MAX / 2;

/// Minor units of a major one.
const SCALE: i64 = 100;
/// Longest amount, in bytes: every one that is not too much, with a sign and room for leading zeros.
const LONGEST: usize = 24;

/// Why a text is no amount; it says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAmount {
    /// Another notation.
    #[error(r#"write amounts as digits with at most two decimal places, in quotes, like "0.50"; this is {0:?}"#)]
    Notation(String),
    /// Nothing is moved.
    #[error("an amount is more than zero")]
    Zero,
    /// Too much.
    #[error("an amount is at most {}", Minor(MAX_AMOUNT))]
    TooMuch,
}

/// Minor units, as people write them: `0.50`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minor<N>(pub N);

impl<N: Copy + Into<i128>> fmt::Display for Minor<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minor: i128 = self.0.into();
        let (sign, scale) = (if minor < 0 { "-" } else { "" }, u128::from(SCALE.unsigned_abs()));
        write!(f, "{sign}{}.{:02}", minor.unsigned_abs() / scale, minor.unsigned_abs() % scale)
    }
}

/// Reads an amount to be moved: digits, and at most two after a point. No sign, no exponent, no number that a program may have
/// rounded on its way here.
pub fn amount(text: &str) -> Result<i64, BadAmount> {
    match unsigned(text)? {
        0 => Err(BadAmount::Zero),
        minor if minor > MAX_AMOUNT => Err(BadAmount::TooMuch),
        minor => Ok(minor),
    }
}

/// Reads a limit, which may be zero or less.
pub fn limit(text: &str) -> Result<i64, BadAmount> {
    let minor = match text.strip_prefix('-') {
        Some(digits) => -unsigned(digits)?,
        None => unsigned(text)?,
    };
    if minor.abs() > MAX_AMOUNT { Err(BadAmount::TooMuch) } else { Ok(minor) }
}

fn unsigned(text: &str) -> Result<i64, BadAmount> {
    let bad = || BadAmount::Notation(text.chars().take(LONGEST).collect());
    if text.len() > LONGEST {
        return Err(if text.bytes().all(|byte| byte.is_ascii_digit()) { BadAmount::TooMuch } else { bad() });
    }
    let (whole, cents) = text.split_once('.').map_or((text, None), |(whole, cents)| (whole, Some(cents)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let cents = match cents {
        None => 0,
        Some(cents) if digits(cents) && cents.len() == 1 => 10 * cents.parse::<i64>().map_err(|_| bad())?,
        Some(cents) if digits(cents) && cents.len() == 2 => cents.parse().map_err(|_| bad())?,
        Some(_) => return Err(bad()),
    };
    if !digits(whole) {
        return Err(bad());
    }
    // Digits that are no i64 are too many.
    let whole: i64 = whole.parse().map_err(|_| BadAmount::TooMuch)?;
    whole.checked_mul(SCALE).and_then(|minor| minor.checked_add(cents)).ok_or(BadAmount::TooMuch)
}

/// A currency: three capital letters, as ISO 4217 has them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// A text is no currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three capital letters, like EUR")]
pub struct BadCurrency;

impl Currency {
    /// Its letters.
    pub fn as_str(&self) -> &str {
        // They are letters, always.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = BadCurrency;

    fn from_str(text: &str) -> Result<Self, BadCurrency> {
        let letters: [u8; 3] = text.as_bytes().try_into().map_err(|_| BadCurrency)?;
        if letters.iter().all(u8::is_ascii_uppercase) { Ok(Self(letters)) } else { Err(BadCurrency) }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_what_people_write() {
        for (text, minor) in [("0.5", 50), ("0.50", 50), ("1", 100), ("007.01", 701), ("10000000000000", MAX_AMOUNT)] {
            assert_eq!(amount(text), Ok(minor), "{text}");
        }
        assert_eq!(Minor(50).to_string(), "0.50");
        assert_eq!(
            (Minor(-1_234_i64).to_string(), Minor(i64::MIN).to_string()),
            ("-12.34".into(), "-92233720368547758.08".into())
        );
    }

    #[test]
    fn what_is_no_amount_is_told_how_to_write_one() {
        for text in ["1e3", "-1", "+1", "0.001", "0.500", "", ".", "1.", ".5", " 1", "1,5", "0x1", "٣", "1_000", "NaN"]
        {
            let told = amount(text).unwrap_err();
            assert!(told.to_string().contains(r#"like "0.50""#), "{text}: {told}");
        }
        assert_eq!((amount("0"), amount("0.00")), (Err(BadAmount::Zero), Err(BadAmount::Zero)));
        for text in ["10000000000000.01", "9223372036854775808", "123456789012345678901234567890"] {
            assert_eq!(amount(text), Err(BadAmount::TooMuch), "{text}");
        }
        assert!(amount(&"9".repeat(1_000_000)).unwrap_err().to_string().len() < 100);
        assert!(amount(&"x".repeat(1_000_000)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_limit_may_be_below_zero() {
        assert_eq!((limit("-10.5"), limit("0"), limit("3")), (Ok(-1_050), Ok(0), Ok(300)));
        assert!(limit("--1").is_err() && limit("-").is_err() && limit("-10000000000000.01").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(minor in 1..=MAX_AMOUNT) {
            prop_assert_eq!(amount(&Minor(minor).to_string()), Ok(minor));
            prop_assert_eq!(limit(&Minor(-minor).to_string()), Ok(-minor));
        }
    }
}
