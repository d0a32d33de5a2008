//! Columns for `UNNEST`, encoded before they are needed: the reader's thread has time for it, while the transaction would keep
//! the database waiting.

use std::ops::Range;

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgRow, PgTypeInfo};
use sqlx::{Postgres, Row, Type};

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

    /// Those of the values whose place is to be kept, without encoding them anew.
    pub fn pick(&self, keep: impl Fn(usize) -> bool) -> Self {
        let pick = |bytes: &[u8]| pick(bytes, keep).ok_or_else(|| "the array ends too early".to_owned());
        Self { array: self.array.clone(), bytes: self.bytes.as_deref().map_err(String::clone).and_then(pick) }
    }
}

/// The place among the values of an `UNNEST ... WITH ORDINALITY` that a row is for, if its first column is that.
pub fn place(row: &PgRow) -> usize {
    // Postgres counts from 1.
    usize::try_from(row.get::<i64, _>(0)).unwrap_or(0).saturating_sub(1)
}

/// Where the number of values is in an array of one dimension: after the number of dimensions, the flags and the type
/// (PostgreSQL's `array_recv`). Its lower bound follows, then each value with its length before it, which is -1 for none.
const COUNT: Range<usize> = 12..16;
/// Where the values begin.
const VALUES: usize = 20;

fn pick(array: &[u8], keep: impl Fn(usize) -> bool) -> Option<Vec<u8>> {
    let Some((head, mut rest)) = array.split_at_checked(VALUES) else {
        // An empty array has no dimension.
        return Some(array.to_vec());
    };
    let mut picked = Vec::with_capacity(array.len());
    picked.extend_from_slice(head);
    let mut count: i32 = 0;
    for place in 0.. {
        let Some((length, _)) = rest.split_first_chunk() else { break };
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = rest.split_at_checked(size_of::<i32>() + length)?;
        if keep(place) {
            picked.extend_from_slice(value);
            count += 1;
        }
        rest = after;
    }
    picked[COUNT].copy_from_slice(&count.to_be_bytes());
    rest.is_empty().then_some(picked)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_picked_is_what_would_have_been_encoded() {
        let names = ["a", "", "ccc", "d"];
        let all = Column::of(names.to_vec());
        assert_eq!(all.pick(|_| true), all);
        assert_eq!(all.pick(|place| place % 2 == 0), Column::of(vec!["a", "ccc"]));
        assert_eq!(
            Column::of(vec![Some(1_i64), None, Some(3)]).pick(|place| place > 0),
            Column::of(vec![None, Some(3_i64)])
        );
        assert_eq!(Column::of(Vec::<i32>::new()).pick(|_| true), Column::of(Vec::<i32>::new()));
    }
}
