//! The barest loop from Kafka into Postgres: one insert of arrays for each batch, committed by itself, and encoded to
//! the last byte beforehand.

use std::collections::HashSet;

use anyhow::{Context, Result};
use shardlane_runtime::ksuid;
use shardlane_runtime::record::Record;
use shardlane_signup::service::REQUEST;
use shardlane_signup::tables::{OPEN, OPEN_IF_FREE};
use shardlane_signup::wire::SignupRequest;
use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;

use crate::bare::looped::{Encoder, Ends};

/// Opens accounts.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    ends: Ends,
    /// Names may come twice.
    #[arg(long)]
    repeats: bool,
}

/// Drains the topic of requests.
pub async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { ends, repeats } = arguments;
    let space = ksuid::space_of(&ends.config()?.id);
    let statement = if repeats { OPEN_IF_FREE } else { OPEN };
    let mut connection = ends.connect().await?;
    let batch = Batch { space, sorted: ends.how.sorted, repeats, rows: Vec::new(), names: HashSet::new() };
    ends.join(batch, async |arguments| {
        sqlx::query_with(statement, arguments).execute(&mut connection).await?;
        Ok(())
    })
    .await
}

struct Row {
    username: String,
    id: String,
    request_id: String,
    slot: i32,
    offset: i64,
}

struct Batch {
    space: u32,
    sorted: bool,
    repeats: bool,
    rows: Vec<Row>,
    names: HashSet<String>,
}

impl Encoder for Batch {
    const REQUESTS: &'static str = REQUEST;
    type Encoded = PgArguments;

    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        let request: SignupRequest<'_> = serde_json::from_slice(record.value.context("no value")?)?;
        if self.repeats && !self.names.insert(request.username.clone().into_owned()) {
            return Ok(());
        }
        self.rows.push(Row {
            username: request.username.into_owned(),
            id: ksuid::of_record(self.space, record.slot, record.offset, record.timestamp),
            request_id: request.request_id.into_owned(),
            slot: record.slot.cast_signed(),
            offset: record.offset,
        });
        Ok(())
    }

    fn encode(&mut self, number: i64) -> Result<PgArguments> {
        let mut rows = std::mem::take(&mut self.rows);
        self.names.clear();
        if self.sorted {
            rows.sort_unstable_by(|one, other| one.username.cmp(&other.username));
        }
        let mut arguments = PgArguments::default();
        let mut add = || {
            arguments.add(number)?;
            arguments.add(rows.iter().map(|row| row.slot).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| row.offset).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| &*row.username).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| &*row.id).collect::<Vec<_>>())?;
            arguments.add(rows.iter().map(|row| &*row.request_id).collect::<Vec<_>>())
        };
        add().map_err(|error| anyhow::anyhow!("cannot encode a batch: {error}"))?;
        Ok(arguments)
    }
}
