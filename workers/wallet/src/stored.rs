//! How the shard keeps what is no number and no plain text.

use std::str::FromStr;

use crate::wire::Change;

/// Reads a currency, a reason, or a number of any size.
pub fn parsed<T: FromStr>(text: &str) -> sqlx::Result<T> {
    // Whatever it is, none of us has written it.
    text.parse()
        .map_err(|_| sqlx::Error::Decode(format!("the shard holds {text:?}, which is not expected there").into()))
}

/// Reads a change.
pub fn read_change(text: &str) -> sqlx::Result<Change> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Writes a change.
pub fn write_change(change: &Change) -> sqlx::Result<String> {
    serde_json::to_string(change).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}
