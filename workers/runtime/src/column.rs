//! Columns for `UNNEST`, encoded before they are needed: the reader's thread has time for it, while the transaction would keep
//! the database waiting.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Postgres, Type};

/// The values of a column, as Postgres takes an array of them. Bound like the `Vec` that it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    array: PgTypeInfo,
    /// What cannot be encoded says so when it is bound.
    bytes: Result<Vec<u8>, String>,
}

impl Column {
    /// Encodes these values, of a type that is built into Postgres.
    pub fn of<T>(values: Vec<T>) -> Self
    where
        Vec<T>: for<'q> Encode<'q, Postgres> + Type<Postgres>,
    {
        let mut buffer = PgArgumentBuffer::default();
        let encoded = values.encode_by_ref(&mut buffer);
        let bytes = encoded.map(|_| std::mem::take(&mut *buffer)).map_err(|error| error.to_string());
        Self { array: Vec::<T>::type_info(), bytes }
    }
}

impl Type<Postgres> for Column {
    /// Not known before there is a value, which says it itself.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("unknown")
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.bytes.as_ref().map_err(String::as_str)?);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.array.clone())
    }

    fn size_hint(&self) -> usize {
        self.bytes.as_ref().map_or(0, Vec::len)
    }
}
