//! Shards in memory, which the real core decides for, and logs between them that carry the real records.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shardlane_runtime::record::Record;
use shardlane_runtime::service::Accepted;
use shardlane_wallet::audit::{CutTotals, Off, SlotBooks, SlotCut};
use shardlane_wallet::books::REMEMBERED;
use shardlane_wallet::fold::{WalletPlan, fold};
use shardlane_wallet::ledger::{Account, Before, Books, Content, Decision, Late, Rules, decide};
use shardlane_wallet::messages::{Sent, put_into_words};
use shardlane_wallet::money::Currency;
use shardlane_wallet::wire::{Change, Instruction, Leg, Payment, parse_payment};

pub fn currency(text: &str) -> Currency {
    text.parse().unwrap()
}

pub fn rules() -> Rules {
    Rules { currency: currency("EUR"), default_limit: 0, open_on_first_credit: true }
}

/// Identity of a payment: its sender and request, or the slot and number of the debit from which it comes.
pub type Id = (Leg, String, String);

pub fn id_of(payment: &Payment) -> Id {
    match payment.debit {
        Some(debit) => (payment.leg, debit.slot.to_string(), debit.number.to_string()),
        None => (payment.leg, payment.sender.clone(), payment.request_id.clone()),
    }
}

/// What the shard's tables hold of one slot.
#[derive(Clone, Debug, Default)]
pub struct Shard {
    pub accounts: HashMap<String, Account>,
    pub decided: HashMap<Id, Content>,
    pub changed: HashMap<(String, String), Change>,
    pub books: Books,
    pub entries: i64,
    pub cuts: BTreeMap<i64, SlotCut>,
    pub conflicts: usize,
    /// Whether each payment that was decided moved money.
    pub moved: HashMap<Id, bool>,
    pub refused: HashMap<(String, String), bool>,
}

impl Shard {
    fn before(&self, slot: u32, plan: &WalletPlan) -> Before {
        let mut before = Before {
            accounts: plan.accounts.iter().map(|key| self.accounts.get(&key.id).cloned()).collect(),
            books: BTreeMap::from([(slot, self.books.clone())]),
            ..Before::default()
        };
        for (at, step) in plan.steps.iter().enumerate().filter(|(at, step)| step.first == *at) {
            if let Instruction::Pay(payment) = &step.instruction
                && let Some(content) = self.decided.get(&id_of(payment))
            {
                before.decided.insert(at, content.clone());
            }
            if let Instruction::Change { account, request_id, .. } = &step.instruction
                && let Some(change) = self.changed.get(&(account.clone(), request_id.clone()))
            {
                before.changed.insert(at, change.clone());
            }
        }
        before
    }

    /// Applies a batch, and gives what the slot sends. `alter` may plant a fault.
    pub fn apply(
        &mut self,
        slot: u32,
        rules: &Rules,
        batch: Vec<Accepted<Instruction>>,
        alter: impl FnOnce(&mut Decision),
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let plan = Arc::new(fold(batch));
        let mut decision = decide(rules, &plan, self.before(slot, &plan));
        alter(&mut decision);
        self.conflicts += decision.conflicts.len();
        for (at, account, _) in &decision.accounts {
            self.accounts.insert(plan.accounts[*at].id.clone(), account.clone());
        }
        for entry in &decision.entries {
            let Instruction::Pay(payment) = &plan.steps[entry.step].instruction else { unreachable!() };
            let content =
                Content { receiver: payment.receiver.clone(), amount: payment.amount, currency: entry.currency };
            let id = id_of(payment);
            self.entries += 1;
            assert_eq!(entry.number, self.entries, "numbers rise one by one");
            self.moved.insert(id.clone(), entry.balance.is_some());
            assert!(self.decided.insert(id, content).is_none(), "decided twice");
        }
        for changed in &decision.changes {
            let Instruction::Change { account, request_id, change } = &plan.steps[changed.step].instruction else {
                unreachable!()
            };
            let id = (account.clone(), request_id.clone());
            self.refused.insert(id.clone(), changed.refused.is_some());
            self.changed.insert(id, change.clone());
        }
        if let Some(books) = decision.books.get(&slot) {
            self.books = books.clone();
        }
        for cut in &decision.cuts {
            let totals = cut
                .totals
                .iter()
                .map(|(currency, totals)| (*currency, CutTotals { totals: *totals, late: 0, late_digest: 0 }));
            let cut = SlotCut { epoch: cut.epoch, recorded_at: cut.timestamp, totals: totals.collect() };
            self.cuts.retain(|epoch, _| epoch.rem_euclid(REMEMBERED) != cut.epoch.rem_euclid(REMEMBERED));
            self.cuts.insert(cut.epoch, cut);
        }
        for Late { sent_in, received_in, currency, amount, digest, .. } in &decision.late {
            for (_, cut) in self.cuts.range_mut(sent_in + 1..=*received_in) {
                let totals = cut.totals.entry(*currency).or_default();
                totals.late += i128::from(*amount);
                totals.late_digest += i128::from(*digest);
            }
        }
        let sent = put_into_words(Sent::Now(plan, decision.entries)).unwrap();
        sent.into_iter().map(|message| (message.key, message.value)).collect()
    }

    /// What its worker tells of it.
    pub fn tell(&self, slot: u32) -> SlotBooks {
        let mut held: BTreeMap<Currency, i128> = BTreeMap::new();
        for account in self.accounts.values() {
            *held.entry(account.currency).or_default() += i128::from(account.balance);
        }
        let booked = |currency: &Currency| {
            let totals = self.books.totals.get(currency).copied().unwrap_or_default();
            totals.deposited + totals.received - totals.sent
        };
        let off =
            held.iter().map(|(currency, held)| Off { currency: *currency, held: *held, booked: booked(currency) });
        SlotBooks {
            slot,
            epoch: self.books.epoch,
            cuts: self.cuts.values().cloned().collect(),
            off: off.filter(|off| off.held != off.booked).collect(),
        }
    }
}

/// Reads a record as the service does.
pub fn understand(slot: u32, offset: i64, key: &[u8], value: &[u8]) -> Accepted<Instruction> {
    let record = Record { slot, offset, timestamp: 1_700_000_000_000 + offset, key: Some(key), value: Some(value) };
    let request = parse_payment(&record).unwrap_or_else(|error| panic!("{error:?}"));
    Accepted { slot, offset, timestamp: record.timestamp, request }
}
