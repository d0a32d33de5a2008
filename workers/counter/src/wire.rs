//! The records of a counter.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use shardlane_runtime::record::{Record, check_id};
use shardlane_runtime::service::Rejection;
use uuid::Uuid;

/// An increment as it lies in the topic. Its record's key is the counter's, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncrementRecord<'a> {
    /// The counter.
    pub key: Uuid,
    /// By how much it rises: 1 or more.
    pub value: i64,
    /// What tells a retry; without one, each record counts.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Cow<'a, str>>,
}

/// An increment that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Increment {
    /// The counter.
    pub key: Uuid,
    /// By how much it rises.
    pub value: i64,
    /// What tells a retry.
    pub id: Option<String>,
}

/// Checks by how much a counter rises; the text says what to do.
pub fn check_value(value: i64) -> Result<(), String> {
    if value >= 1 { Ok(()) } else { Err(format!("value is a whole number from 1 to {}; this is {value}", i64::MAX)) }
}

/// The text of a counter's key, which is its records' key: lower case, with hyphens.
pub fn canonical(key: Uuid, buffer: &mut [u8; uuid::fmt::Hyphenated::LENGTH]) -> &str {
    key.hyphenated().encode_lower(buffer)
}

/// Understands a record.
pub fn parse(record: &Record<'_>) -> Result<Increment, Rejection> {
    let value = record.value.ok_or_else(|| Rejection::new("empty", "the record has no value"))?;
    let increment: IncrementRecord<'_> = serde_json::from_slice(value)
        .map_err(|error| Rejection::new("malformed", format!(r#"not {{"key": UUID, "value": number}}: {error}"#)))?;
    let IncrementRecord { key, value, idempotency_key } = increment;
    check_value(value).map_err(|reason| Rejection::new("value", reason))?;
    let checked = idempotency_key.as_deref().map_or(Ok(()), |id| check_id("idempotency_key", id));
    checked.map_err(|reason| Rejection::new("idempotency_key", reason))?;
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = canonical(key, &mut buffer);
    if record.key != Some(text.as_bytes()) {
        return Err(Rejection::new("not_canonical", format!("the record's key must be its counter's, as {text}")));
    }
    Ok(Increment { key, value, id: idempotency_key.map(Cow::into_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "6f1d5f3c-0c6e-4d57-9a3a-3f8c6d6a2f10";

    fn taken(key: &str, value: &str) -> Result<Increment, &'static str> {
        let record =
            Record { slot: 0, offset: 0, timestamp: 0, key: Some(key.as_bytes()), value: Some(value.as_bytes()) };
        parse(&record).map_err(|rejection| rejection.kind)
    }

    #[test]
    fn an_increment_is_understood_with_and_without_an_idempotency_key() {
        let plain = taken(KEY, &format!(r#"{{"key":"{KEY}","value":5}}"#)).unwrap();
        assert_eq!((plain.key.to_string(), plain.value, plain.id), (KEY.to_owned(), 5, None));
        let told = taken(KEY, &format!(r#"{{"key":"{KEY}","value":9223372036854775807,"idempotency_key":"a"}}"#));
        assert_eq!(told.map(|told| (told.value, told.id)), Ok((i64::MAX, Some("a".to_owned()))));
    }

    #[test]
    fn what_cannot_be_taken_says_why() {
        for (key, value, why) in [
            (KEY, r#"{"value":1}"#.to_owned(), "malformed"),
            (KEY, format!(r#"{{"key":"{KEY}","value":1.5}}"#), "malformed"),
            (KEY, format!(r#"{{"key":"{KEY}","value":9223372036854775808}}"#), "malformed"),
            (KEY, format!(r#"{{"key":"{KEY}","value":1,"by":"me"}}"#), "malformed"),
            (KEY, format!(r#"{{"key":"{KEY}","value":0}}"#), "value"),
            (KEY, format!(r#"{{"key":"{KEY}","value":1,"idempotency_key":""}}"#), "idempotency_key"),
            (KEY, format!(r#"{{"key":"{KEY}","value":1,"idempotency_key":"\u0000"}}"#), "idempotency_key"),
            ("other", format!(r#"{{"key":"{KEY}","value":1}}"#), "not_canonical"),
            (&KEY.to_uppercase(), format!(r#"{{"key":"{KEY}","value":1}}"#), "not_canonical"),
        ] {
            assert_eq!(taken(key, &value), Err(why), "{value}");
        }
    }
}
