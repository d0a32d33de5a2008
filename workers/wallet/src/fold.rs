//! A batch of instructions, brought into the form in which it is decided and written: no I/O.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};
use shardlane_runtime::column::Column;
use shardlane_runtime::service::Accepted;

use crate::wire::{Identity, Instruction, Leg, Payment};

/// A batch, ready for the shard.
#[derive(Debug, PartialEq)]
pub struct WalletPlan {
    /// The instructions, those of a slot in the order of its log.
    pub steps: Vec<Step>,
    /// The accounts that they are for, in the order of their ids: Postgres then walks its index from left to right.
    pub accounts: Vec<AccountKey>,
    /// Their ids.
    pub account_ids: Column,
    /// The slots of the instructions, in order.
    pub slots: Vec<u32>,
    /// The payments, once each however often they are in the batch, as places in `steps`; in the order of their requests, which
    /// is that of the shard's largest index.
    pub payments: Vec<usize>,
    /// What of them is known beforehand, in columns.
    pub columns: Payments,
}

/// An account of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountKey {
    /// The slot.
    pub slot: u32,
    /// The id.
    pub id: String,
}

/// An instruction, and where its record lies.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The slot.
    pub slot: u32,
    /// The record's offset in it.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// Its account's place in the plan; 0 if it is for none.
    pub account: usize,
    /// The first instruction of the batch with the same identity: this one, or an earlier one of which it is a double.
    pub first: usize,
    /// A number of the message that it is, or that it makes its account's slot send; 0 if neither.
    pub digest: i64,
    /// What is to be done.
    pub instruction: Instruction,
}

/// Columns of payments.
#[derive(Clone, Debug, PartialEq)]
pub struct Payments {
    /// The slots.
    pub slots: Column,
    /// The offsets.
    pub offsets: Column,
    /// The records' timestamps.
    pub timestamps: Column,
    /// The ways.
    pub legs: Column,
    /// The accounts that pay.
    pub senders: Column,
    /// The requests.
    pub request_ids: Column,
    /// The accounts that are paid.
    pub receivers: Column,
    /// The amounts, in minor units.
    pub amounts: Column,
    /// The slots of the debits from which they come.
    pub debit_slots: Column,
    /// The numbers of these debits.
    pub debit_numbers: Column,
}

impl Payments {
    fn of(steps: &[Step], payments: &[usize]) -> Self {
        let paid: Vec<(&Step, &Payment)> = payments
            .iter()
            .filter_map(|at| match &steps[*at].instruction {
                Instruction::Pay(payment) => Some((&steps[*at], payment)),
                _ => None,
            })
            .collect();
        Self {
            slots: Column::of(paid.iter().map(|(step, _)| step.slot.cast_signed()).collect()),
            offsets: Column::of(paid.iter().map(|(step, _)| step.offset).collect()),
            timestamps: Column::of(paid.iter().map(|(step, _)| step.timestamp).collect()),
            legs: Column::of(paid.iter().map(|(_, payment)| payment.leg.as_str()).collect()),
            senders: Column::of(paid.iter().map(|(_, payment)| &*payment.sender).collect()),
            request_ids: Column::of(paid.iter().map(|(_, payment)| &*payment.request_id).collect()),
            receivers: Column::of(paid.iter().map(|(_, payment)| &*payment.receiver).collect()),
            amounts: Column::of(paid.iter().map(|(_, payment)| payment.amount).collect()),
            debit_slots: Column::of(paid.iter().map(|(_, payment)| Some(payment.debit?.slot.cast_signed())).collect()),
            debit_numbers: Column::of(paid.iter().map(|(_, payment)| Some(payment.debit?.number)).collect()),
        }
    }

    /// Those whose place is to be kept.
    pub fn pick(&self, keep: &[bool]) -> Self {
        let pick = |column: &Column| column.pick(|place| keep[place]);
        Self {
            slots: pick(&self.slots),
            offsets: pick(&self.offsets),
            timestamps: pick(&self.timestamps),
            legs: pick(&self.legs),
            senders: pick(&self.senders),
            request_ids: pick(&self.request_ids),
            receivers: pick(&self.receivers),
            amounts: pick(&self.amounts),
            debit_slots: pick(&self.debit_slots),
            debit_numbers: pick(&self.debit_numbers),
        }
    }
}

/// Folds a batch.
pub fn fold(batch: Vec<Accepted<Instruction>>) -> WalletPlan {
    let firsts = firsts(&batch);
    let (accounts, places) = accounts(&batch);
    let steps: Vec<Step> = batch
        .into_iter()
        .zip(firsts)
        .zip(places)
        .map(|((accepted, first), account)| {
            let Accepted { slot, offset, timestamp, request: instruction } = accepted;
            let digest = match &instruction {
                Instruction::Pay(payment) => digest(payment),
                _ => 0,
            };
            Step { slot, offset, timestamp, account, first, digest, instruction }
        })
        .collect();
    let pays = |at: &usize| steps[*at].first == *at && matches!(steps[*at].instruction, Instruction::Pay(_));
    let mut payments: Vec<usize> = (0..steps.len()).filter(pays).collect();
    payments.sort_by(|one, other| request_id(&steps[*one]).cmp(request_id(&steps[*other])));
    let mut slots: Vec<u32> = steps.iter().map(|step| step.slot).collect::<HashSet<_>>().into_iter().collect();
    slots.sort_unstable();
    let account_ids = Column::of(accounts.iter().map(|account| &*account.id).collect());
    let columns = Payments::of(&steps, &payments);
    WalletPlan { steps, accounts, account_ids, slots, payments, columns }
}

fn request_id(step: &Step) -> &str {
    match &step.instruction {
        Instruction::Pay(payment) => &payment.request_id,
        Instruction::Change { request_id, .. } => request_id,
        Instruction::Mark { .. } => "",
    }
}

/// For each instruction, the first one with its identity.
fn firsts(batch: &[Accepted<Instruction>]) -> Vec<usize> {
    let mut paid: HashMap<Identity<'_>, usize> = HashMap::with_capacity(batch.len());
    let mut changed: HashMap<(&str, &str), usize> = HashMap::new();
    batch
        .iter()
        .enumerate()
        .map(|(at, accepted)| match &accepted.request {
            Instruction::Pay(payment) => *paid.entry(payment.identity()).or_insert(at),
            Instruction::Change { account, request_id, .. } => *changed.entry((account, request_id)).or_insert(at),
            Instruction::Mark { .. } => at,
        })
        .collect()
}

/// The accounts of a batch in order, and for each instruction where its account is among them.
fn accounts(batch: &[Accepted<Instruction>]) -> (Vec<AccountKey>, Vec<usize>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut found: Vec<(&str, u32)> = Vec::new();
    let places: Vec<Option<usize>> = batch
        .iter()
        .map(|accepted| {
            let id = match &accepted.request {
                Instruction::Pay(payment) => payment.account(),
                Instruction::Change { account, .. } => account,
                Instruction::Mark { .. } => return None,
            };
            Some(*seen.entry(id).or_insert_with(|| {
                found.push((id, accepted.slot));
                found.len() - 1
            }))
        })
        .collect();
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_unstable_by_key(|at| found[*at].0);
    let mut rank = vec![0; found.len()];
    for (place, at) in order.iter().enumerate() {
        rank[*at] = place;
    }
    let keys = order.iter().map(|at| AccountKey { slot: found[*at].1, id: found[*at].0.to_owned() }).collect();
    (keys, places.into_iter().map(|place| place.map_or(0, |place| rank[place])).collect())
}

/// By what audits know a message that carries money: the same number where it is sent and where it is received.
fn digest(payment: &Payment) -> i64 {
    let leg = match payment.leg {
        Leg::Deposit => return 0,
        // What a debit sends.
        Leg::Outgoing => Leg::Incoming,
        leg => leg,
    };
    digest_of(leg, payment)
}

/// That of the message which brings back what could not be credited.
pub fn digest_of_return(payment: &Payment) -> i64 {
    digest_of(Leg::Returned, payment)
}

fn digest_of(leg: Leg, payment: &Payment) -> i64 {
    let mut hasher = Sha256::new();
    for part in [leg.as_str(), &payment.sender, &payment.request_id, &payment.receiver] {
        // No part has a zero byte.
        hasher.update(part);
        hasher.update([0]);
    }
    hasher.update(payment.amount.to_be_bytes());
    let digest = hasher.finalize();
    let head = digest.first_chunk().copied().unwrap_or_default();
    // Not negative, so that sums of them only rise.
    (u64::from_be_bytes(head) >> 1).cast_signed()
}
