//! The barest loop that settles transfers: of each batch one transaction, which reads the accounts, inserts both
//! entries of every transfer, and updates the accounts. All but what depends on balances is encoded beforehand.

use std::collections::HashMap;

use anyhow::{Context, Result};
use shardlane_runtime::column::Column;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::postgres::LOOP_SETUP;
use shardlane_runtime::record::Record;
use shardlane_wallet::money;
use shardlane_wallet::service::REQUEST;
use shardlane_wallet::wire::{Leg, TransferRequest};
use sqlx::{PgConnection, Row};

use crate::bare::looped::{Encoder, Ends};

/// Settles transfers.
pub async fn run(ends: Ends) -> Result<()> {
    let mut connection = ends.connect().await?;
    sqlx::raw_sql(LOOP_SETUP).execute(&mut connection).await?;
    let batch = Batch {
        keyspace: Keyspace::of(&ends.config()?),
        sorted: ends.how.sorted,
        last: HashMap::new(),
        accounts: Vec::new(),
        places: HashMap::new(),
        transfers: Vec::new(),
    };
    ends.join(batch, async |encoded| settle(&mut connection, encoded).await).await
}

/// A side of a transfer: an account's place in the batch, and the number of its entry in the account's slot.
#[derive(Clone, Copy)]
struct Side {
    account: usize,
    slot: i32,
    number: i64,
}

struct Transfer {
    request_id: String,
    timestamp: i64,
    amount: i64,
    from: Side,
    to: Side,
}

struct Batch {
    keyspace: Keyspace,
    sorted: bool,
    /// The last number of each slot, over all batches.
    last: HashMap<i32, i64>,
    /// The accounts of a batch, with their slots.
    accounts: Vec<(String, i32)>,
    places: HashMap<String, usize>,
    transfers: Vec<Transfer>,
}

/// A transfer as it is decided.
struct Step {
    amount: i64,
    from: Side,
    to: Side,
    /// Place of its first entry among all: the second one follows.
    entry: usize,
}

/// A batch, but for what depends on balances.
struct Encoded {
    number: i64,
    ids: Column,
    /// How many accounts these are.
    accounts: usize,
    /// The transfers in the order in which they were read.
    steps: Vec<Step>,
    slots: Column,
    numbers: Column,
    debit_slots: Column,
    debit_numbers: Column,
    timestamps: Column,
    amounts: Column,
    legs: Column,
    senders: Column,
    receivers: Column,
    request_ids: Column,
}

impl Batch {
    fn side(&mut self, id: &str) -> Side {
        let account = match self.places.get(id) {
            Some(place) => *place,
            None => {
                self.accounts.push((id.to_owned(), self.keyspace.slot_of(id.as_bytes()).cast_signed()));
                self.places.insert(id.to_owned(), self.accounts.len() - 1);
                self.accounts.len() - 1
            }
        };
        let slot = self.accounts[account].1;
        let last = self.last.entry(slot).or_default();
        *last += 1;
        Side { account, slot, number: *last }
    }

    /// The accounts of the batch in the order of their index, to which all sides now point.
    fn sorted_accounts(&mut self) -> Vec<(String, i32)> {
        let mut accounts = std::mem::take(&mut self.accounts);
        accounts.sort_unstable();
        let mut ranks = vec![0; accounts.len()];
        for (rank, (id, _)) in accounts.iter().enumerate() {
            ranks[self.places[id]] = rank;
        }
        self.places.clear();
        for side in self.transfers.iter_mut().flat_map(|transfer| [&mut transfer.from, &mut transfer.to]) {
            side.account = ranks[side.account];
        }
        accounts
    }
}

impl Encoder for Batch {
    const REQUESTS: &'static str = REQUEST;
    type Encoded = Encoded;

    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        let request: TransferRequest<'_> = serde_json::from_slice(record.value.context("no value")?)?;
        let (from, to) = (self.side(&request.from), self.side(&request.to));
        let (amount, timestamp) = (money::amount(&request.amount)?, record.timestamp);
        self.transfers.push(Transfer { request_id: request.request_id.into_owned(), timestamp, amount, from, to });
        Ok(())
    }

    fn encode(&mut self, number: i64) -> Result<Encoded> {
        let (accounts, transfers) = (self.sorted_accounts(), std::mem::take(&mut self.transfers));
        let mut order: Vec<_> = (0..transfers.len()).collect();
        if self.sorted {
            order.sort_unstable_by(|one, other| transfers[*one].request_id.cmp(&transfers[*other].request_id));
        }
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, at)| places[*at] = 2 * place);
        let step = |(transfer, entry): (&Transfer, usize)| {
            let Transfer { amount, from, to, .. } = *transfer;
            Step { amount, from, to, entry }
        };
        let steps = transfers.iter().zip(places).map(step).collect();
        let entries: Vec<_> = order
            .iter()
            .map(|at| &transfers[*at])
            .flat_map(|transfer| [(Leg::Outgoing, &transfer.from, transfer), (Leg::Incoming, &transfer.to, transfer)])
            .collect();
        let id = |side: &Side| &*accounts[side.account].0;
        let debit = |(leg, _, transfer): &(Leg, &Side, &Transfer)| (*leg == Leg::Incoming).then_some(transfer.from);
        Ok(Encoded {
            number,
            ids: Column::of(accounts.iter().map(|(id, _)| &**id).collect()),
            accounts: accounts.len(),
            steps,
            slots: Column::of(entries.iter().map(|(_, side, _)| side.slot).collect()),
            numbers: Column::of(entries.iter().map(|(_, side, _)| side.number).collect()),
            debit_slots: Column::of(entries.iter().map(|entry| Some(debit(entry)?.slot)).collect()),
            debit_numbers: Column::of(entries.iter().map(|entry| Some(debit(entry)?.number)).collect()),
            timestamps: Column::of(entries.iter().map(|(.., transfer)| transfer.timestamp).collect()),
            amounts: Column::of(entries.iter().map(|(.., transfer)| transfer.amount).collect()),
            legs: Column::of(entries.iter().map(|(leg, ..)| leg.as_str()).collect()),
            senders: Column::of(entries.iter().map(|(.., transfer)| id(&transfer.from)).collect()),
            receivers: Column::of(entries.iter().map(|(.., transfer)| id(&transfer.to)).collect()),
            request_ids: Column::of(entries.iter().map(|(.., transfer)| &*transfer.request_id).collect()),
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Account {
    balance: i64,
    lowest: i64,
    last: Option<i64>,
}

async fn settle(connection: &mut PgConnection, batch: Encoded) -> sqlx::Result<()> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    let mut accounts = read(connection, &batch).await?;
    let decided = decide(&mut accounts, &batch.steps)?;
    insert(connection, &batch, decided).await?;
    update(connection, &batch, &accounts).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}

async fn read(connection: &mut PgConnection, batch: &Encoded) -> sqlx::Result<Vec<Account>> {
    let mut accounts = vec![Account::default(); batch.accounts];
    let rows = sqlx::query(
        r#"SELECT k.place, a.balance, a.lowest, a.last_entry
           FROM UNNEST($1::text[]) WITH ORDINALITY AS k(id, place) JOIN account a ON a.id = k.id COLLATE "C""#,
    )
    .bind(&batch.ids)
    .fetch_all(connection)
    .await?;
    for row in &rows {
        // Counted from 1.
        let place = usize::try_from(row.get::<i64, _>(0)).unwrap_or_default();
        accounts[place - 1] = Account { balance: row.get(1), lowest: row.get(2), last: row.get(3) };
    }
    Ok(accounts)
}

/// The balances after each entry, and the entries before it.
type Decided = (Vec<i64>, Vec<Option<i64>>);

fn decide(accounts: &mut [Account], steps: &[Step]) -> sqlx::Result<Decided> {
    let mut decided = (vec![0; 2 * steps.len()], vec![None; 2 * steps.len()]);
    for Step { amount, from, to, entry } in steps {
        let payer = &accounts[from.account];
        if payer.balance - amount < payer.lowest {
            // There is money enough for everything, and so nothing that this loop would have to refuse.
            return Err(sqlx::Error::Protocol("a transfer would go under its account's limit".to_owned()));
        }
        for (side, change, place) in [(from, -amount, *entry), (to, *amount, entry + 1)] {
            let account = &mut accounts[side.account];
            account.balance += change;
            decided.0[place] = account.balance;
            decided.1[place] = account.last.replace(side.number);
        }
    }
    Ok(decided)
}

async fn insert(connection: &mut PgConnection, batch: &Encoded, (balances, previous): Decided) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO entry (slot, batch, number, record_offset, recorded_at, amount, balance, previous, epoch, debit_slot,
                            debit_number, leg, currency, sender, receiver, request_id)
         SELECT slot, $1, number, number, recorded_at, amount, balance, previous, 0, debit_slot, debit_number, leg, 'EUR',
                sender, receiver, request_id
         FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
                     $9::text[], $10::text[], $11::text[], $12::int[], $13::bigint[])
              AS e(slot, number, recorded_at, amount, balance, previous, leg, sender, receiver, request_id, debit_slot,
                   debit_number)",
    )
    .bind(batch.number)
    .bind(&batch.slots)
    .bind(&batch.numbers)
    .bind(&batch.timestamps)
    .bind(&batch.amounts)
    .bind(balances)
    .bind(previous)
    .bind(&batch.legs)
    .bind(&batch.senders)
    .bind(&batch.receivers)
    .bind(&batch.request_ids)
    .bind(&batch.debit_slots)
    .bind(&batch.debit_numbers)
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, batch: &Encoded, accounts: &[Account]) -> sqlx::Result<()> {
    sqlx::query(
        r#"UPDATE account SET batch = $1, balance = k.balance, last_entry = k.last_entry
           FROM UNNEST($2::text[], $3::bigint[], $4::bigint[]) AS k(id, balance, last_entry)
           WHERE account.id = k.id COLLATE "C""#,
    )
    .bind(batch.number)
    .bind(&batch.ids)
    .bind(accounts.iter().map(|account| account.balance).collect::<Vec<_>>())
    .bind(accounts.iter().map(|account| account.last).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
