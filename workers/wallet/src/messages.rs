//! What a slot sends to others: what a debit owes, and what goes back.

use std::sync::Arc;

use shardlane_runtime::service::{BatchRange, Message};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::fold::WalletPlan;
use crate::ledger::Entry;
use crate::money::{Currency, Minor};
use crate::reason::Reason;
use crate::service::PAYMENT;
use crate::stored::parsed;
use crate::wire::{Debit, Direction, Instruction, Leg, PaymentRecord};

/// What some batches have sent.
#[derive(Debug)]
pub enum Sent {
    /// A batch that was just written.
    Now(Arc<WalletPlan>, Vec<Entry>),
    /// Rows of the shard.
    Before(Vec<Owed>),
}

/// Money on its way to an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    request_id: String,
    sender: String,
    receiver: String,
    amount: i64,
    currency: Currency,
    epoch: i64,
    debit: Debit,
    /// Why it goes back, if it does.
    reason: Option<Reason>,
}

impl Owed {
    fn message(&self) -> sqlx::Result<Message> {
        let money = (self.amount, self.currency, self.epoch, self.debit);
        message(&self.request_id, &self.sender, &self.receiver, money, self.reason)
    }
}

/// The messages themselves. A debit sends to the receiver, a credit that was refused back to the sender.
pub fn put_into_words(sent: Sent) -> sqlx::Result<Vec<Message>> {
    match sent {
        Sent::Now(plan, entries) => {
            let of = |entry: &Entry| {
                let Instruction::Pay(payment) = &plan.steps[entry.step].instruction else { return None };
                let (back, debit) = match (payment.leg, entry.balance, payment.debit) {
                    (Leg::Outgoing, Some(_), _) => {
                        (None, Debit { slot: plan.steps[entry.step].slot, number: entry.number })
                    }
                    (Leg::Incoming, None, Some(debit)) => (entry.reason, debit),
                    _ => return None,
                };
                let money = (payment.amount, entry.currency, entry.epoch, debit);
                Some(message(&payment.request_id, &payment.sender, &payment.receiver, money, back))
            };
            entries.iter().filter_map(of).collect()
        }
        Sent::Before(rows) => rows.iter().map(Owed::message).collect(),
    }
}

fn message(
    request_id: &str,
    sender: &str,
    receiver: &str,
    (amount, currency, epoch, debit): (i64, Currency, i64, Debit),
    back: Option<Reason>,
) -> sqlx::Result<Message> {
    let (direction, account) =
        if back.is_some() { (Direction::Returned, sender) } else { (Direction::Incoming, receiver) };
    let record = PaymentRecord {
        amount: Some(Minor(amount).to_string().into()),
        currency: Some(currency),
        from: back.is_none().then(|| sender.into()),
        to: back.is_some().then(|| receiver.into()),
        epoch: Some(epoch),
        debit: Some(debit),
        reason: back,
        ..PaymentRecord::new(direction, account, request_id)
    };
    let value = serde_json::to_vec(&record).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(Message { role: PAYMENT, key: account.as_bytes().to_vec(), value })
}

/// What some batches have sent, as the shard has it, in order.
pub async fn read(shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Vec<Owed>> {
    let rows = sqlx::query(
        "SELECT request_id, sender, receiver, amount, currency, epoch, CASE leg WHEN 'incoming' THEN reason END,
                COALESCE(debit_slot, slot), COALESCE(debit_number, number) FROM entry
         WHERE batch > $1 AND batch <= $2
           AND (leg = 'outgoing' AND balance IS NOT NULL OR leg = 'incoming' AND balance IS NULL)
         ORDER BY batch, slot, number",
    )
    .bind(range.after)
    .bind(range.to)
    .fetch_all(shard)
    .await?;
    let owed = |row: &PgRow| {
        Ok(Owed {
            request_id: row.get(0),
            sender: row.get(1),
            receiver: row.get(2),
            amount: row.get(3),
            currency: parsed(row.get(4))?,
            epoch: row.get(5),
            reason: row.get::<Option<&str>, _>(6).map(parsed).transpose()?,
            debit: Debit { slot: row.get::<i32, _>(7).unsigned_abs(), number: row.get(8) },
        })
    };
    rows.iter().map(owed).collect()
}
