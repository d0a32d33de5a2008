//! Rows as one array for each of their columns, in Postgres' own binary form
//! ([`array_send`](https://doxygen.postgresql.org/arrayfuncs_8c.html)): so any number of rows, of whatever types, are the parameters of
//! one statement.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::edges::Sum;

/// The type of a column, and that of an array of such, as a database numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// Of one.
    pub element: u32,
    /// Of an array.
    pub array: u32,
}

/// The values that some rows have in a column, each after its length.
#[derive(Clone, Debug, Default)]
struct Values {
    bytes: Vec<u8>,
    any_null: bool,
}

/// Rows, column by column.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<Values>,
    size: usize,
    /// What they come to.
    pub sum: Sum,
}

impl Columns {
    /// No rows yet, of so many columns.
    pub fn new(columns: usize) -> Self {
        Self { columns: vec![Values::default(); columns], size: 0, sum: Sum::default() }
    }

    /// Adds a row: its values, each after its length, and its digest. `None`: these are not as many values as there are columns.
    pub fn add(&mut self, mut values: &[u8], digest: i64) -> Option<()> {
        self.size += values.len();
        for column in &mut self.columns {
            // Less than nothing: NULL.
            let length = usize::try_from(i32::from_be_bytes(*values.first_chunk()?));
            column.any_null |= length.is_err();
            let (value, rest) = values.split_at_checked(size_of::<i32>() + length.unwrap_or(0))?;
            column.bytes.extend_from_slice(value);
            values = rest;
        }
        self.sum.add(digest);
        values.is_empty().then_some(())
    }

    /// How many bytes they are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The arrays, and what their rows come to. There are none afterwards.
    pub fn take(&mut self, types: &[ColumnType]) -> (Vec<Array>, Sum) {
        let Self { columns, sum, .. } = std::mem::replace(self, Self::new(self.columns.len()));
        let arrays = columns.iter().zip(types).map(|(values, of)| Array::of(values, *of, sum.rows));
        (arrays.collect(), sum)
    }
}

/// A parameter of a statement.
#[derive(Debug, PartialEq, Eq)]
pub struct Array {
    bytes: Vec<u8>,
    of: u32,
}

impl Array {
    fn of(values: &Values, of: ColumnType, rows: u64) -> Self {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        // One dimension, whether a value is NULL, of what; how many, and the number of the first.
        let header = [1, u32::from(values.any_null), of.element, rows, 1];
        let header = header.into_iter().flat_map(u32::to_be_bytes);
        Self { bytes: header.chain(values.bytes.iter().copied()).collect(), of: of.array }
    }
}

impl Type<Postgres> for Array {
    fn type_info() -> PgTypeInfo {
        // Which one, each says itself.
        PgTypeInfo::with_name("anyarray")
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.of)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [ColumnType; 2] = [ColumnType { element: 23, array: 1007 }, ColumnType { element: 25, array: 1009 }];

    #[test]
    fn rows_become_columns() {
        let mut rows = Columns::new(2);
        rows.add(b"\0\0\0\x04\0\0\0\x07\0\0\0\x01a", 5).unwrap();
        rows.add(b"\0\0\0\x04\0\0\0\x08\xff\xff\xff\xff", -2).unwrap();
        assert_eq!(rows.size(), 25);
        let (arrays, sum) = rows.take(&TYPES);
        assert_eq!(sum, Sum { rows: 2, digest: 3 });
        let numbers = b"\0\0\0\x01\0\0\0\0\0\0\0\x17\0\0\0\x02\0\0\0\x01\0\0\0\x04\0\0\0\x07\0\0\0\x04\0\0\0\x08";
        let texts = b"\0\0\0\x01\0\0\0\x01\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x01a\xff\xff\xff\xff";
        assert_eq!(arrays, [Array { bytes: numbers.to_vec(), of: 1007 }, Array { bytes: texts.to_vec(), of: 1009 }]);
        assert_eq!((rows.size(), rows.sum), (0, Sum::default()), "they are taken");
    }

    #[test]
    fn a_row_has_a_value_for_each_column_and_no_more() {
        for row in [&b"\0\0\0\x01a"[..], b"\0\0\0\x01a\0\0\0\x02b", b"\0\0\0\0\0\0\0\0\0", b"\0\0"] {
            assert_eq!(Columns::new(2).add(row, 0), None, "{row:?}");
        }
    }
}
