//! What becomes of a batch: pure, from what the shard holds to what it will hold. The order of the log decides, within a batch
//! too.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::fold::{Step, WalletPlan, digest_of_return};
use crate::money::{Currency, MAX_BALANCE};
use crate::reason::Reason;
use crate::wire::{Change, Instruction, Leg, Payment};

/// What the custom resource says of accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The currency of an account whose opener names none.
    pub currency: Currency,
    /// The lowest balance of a new account, in minor units.
    pub default_limit: i64,
    /// Whether a first credit opens an account.
    pub open_on_first_credit: bool,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its currency; never changes.
    pub currency: Currency,
    /// What it holds, in minor units.
    pub balance: i64,
    /// The lowest balance that it may have, in minor units.
    pub limit: i64,
    /// Whether it takes part no more, but for what comes back.
    pub closed: bool,
    /// The number of its last entry.
    pub last: Option<i64>,
}

/// What has gone through a slot in one currency since its beginning. Its accounts hold `deposited + received - sent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Minor units from outside.
    #[serde(with = "large")]
    pub deposited: i128,
    /// Minor units that messages took away.
    #[serde(with = "large")]
    pub sent: i128,
    /// Minor units that messages brought.
    #[serde(with = "large")]
    pub received: i128,
    /// Sum of those messages' numbers.
    #[serde(with = "large")]
    pub sent_digest: i128,
    /// Sum of those messages' numbers.
    #[serde(with = "large")]
    pub received_digest: i128,
}

/// Numbers that JSON's readers might round, as text.
pub(crate) mod large {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes one.
    pub fn serialize<S: Serializer>(number: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A slot's books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// The last audit that the slot has taken part in.
    pub epoch: i64,
    /// The number of its last entry.
    pub entries: i64,
    /// The totals, by currency.
    pub totals: BTreeMap<Currency, Totals>,
}

/// What was decided before of a payment with the same identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The account that is paid.
    pub receiver: String,
    /// How much, in minor units.
    pub amount: i64,
    /// The currency.
    pub currency: Currency,
}

/// What the shard holds of what a batch is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    /// The plan's accounts, in order; `None` where there is none.
    pub accounts: Vec<Option<Account>>,
    /// The plan's slots.
    pub books: BTreeMap<u32, Books>,
    /// Payments that were decided before, by their places in the plan.
    pub decided: HashMap<usize, Content>,
    /// Changes that were decided before, by their places in the plan.
    pub changed: HashMap<usize, Change>,
}

/// A payment that was decided, once and for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the plan.
    pub step: usize,
    /// The currency.
    pub currency: Currency,
    /// What the account holds afterwards, in minor units; `None` if it was not touched.
    pub balance: Option<i64>,
    /// Its number in the slot: the one before it, and one.
    pub number: i64,
    /// The number of the account's entry before this one.
    pub previous: Option<i64>,
    /// The audit in which the slot was.
    pub epoch: i64,
    /// Why the account was not touched, or why the amount comes back.
    pub reason: Option<Reason>,
}

/// A change of an account that was decided, once and for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its place in the plan.
    pub step: usize,
    /// Why it was not done.
    pub refused: Option<Reason>,
}

/// A slot's totals before the first message of an audit: its part of the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The slot.
    pub slot: u32,
    /// The audit.
    pub epoch: i64,
    /// The timestamp of the record that brought it, in milliseconds since 1970.
    pub timestamp: i64,
    /// The totals.
    pub totals: BTreeMap<Currency, Totals>,
}

/// A message that was sent before some audits and received after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// The slot that received it.
    pub slot: u32,
    /// The audit in which it was sent.
    pub sent_in: i64,
    /// The audit in which it was received: it is late for this one, and for those between.
    pub received_in: i64,
    /// The currency.
    pub currency: Currency,
    /// How much, in minor units.
    pub amount: i64,
    /// The message's number.
    pub digest: i64,
}

/// What becomes of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Payments that are decided now, in order.
    pub entries: Vec<Entry>,
    /// Accounts that were changed, by their places in the plan, and whether they are new.
    pub accounts: Vec<(usize, Account, bool)>,
    /// Books that were changed.
    pub books: BTreeMap<u32, Books>,
    /// Changes that are decided now.
    pub changes: Vec<Changed>,
    /// Audits that slots have taken part in.
    pub cuts: Vec<Cut>,
    /// Messages that came after them.
    pub late: Vec<Late>,
    /// Instructions whose identity was used before with other content, by their places in the plan.
    pub conflicts: Vec<usize>,
}

/// Decides a batch.
pub fn decide(rules: &Rules, plan: &WalletPlan, before: Before) -> Decision {
    let mut teller = Teller {
        rules,
        plan,
        touched: vec![false; before.accounts.len()],
        new: before.accounts.iter().map(Option::is_none).collect(),
        currencies: vec![None; plan.steps.len()],
        decision: Decision { entries: Vec::with_capacity(plan.payments.len()), ..Decision::default() },
        before,
    };
    for (at, step) in plan.steps.iter().enumerate() {
        match &step.instruction {
            Instruction::Pay(payment) => teller.pay(at, step, payment),
            Instruction::Change { change, .. } => teller.change(at, step, change),
            Instruction::Mark { epoch } => teller.cut(step, *epoch),
        }
    }
    teller.finish()
}

struct Teller<'a> {
    rules: &'a Rules,
    plan: &'a WalletPlan,
    before: Before,
    touched: Vec<bool>,
    new: Vec<bool>,
    /// The currencies of payments that this batch has decided.
    currencies: Vec<Option<Currency>>,
    decision: Decision,
}

impl Teller<'_> {
    fn pay(&mut self, at: usize, step: &Step, payment: &Payment) {
        if let Some(differs) = self.known(at, step, payment) {
            if differs {
                self.decision.conflicts.push(at);
            }
            return;
        }
        self.cut(step, payment.epoch);
        let account = self.before.accounts[step.account].as_ref();
        let currency = payment.currency.or(account.map(|account| account.currency)).unwrap_or(self.rules.currency);
        let refused = self.judge(account, payment, currency).err();
        self.currencies[at] = Some(currency);
        let books = self.books(step.slot);
        books.entries += 1;
        let (epoch, number) = (books.epoch, books.entries);
        self.change_books(step.slot);
        let moved = refused.is_none();
        self.keep_books(step, payment, currency, moved);
        let (mut balance, mut previous) = (None, None);
        if moved {
            let change = if payment.leg == Leg::Outgoing { -payment.amount } else { payment.amount };
            let account = self.open(step.account, currency, self.rules.default_limit);
            account.balance += change;
            (balance, previous) = (Some(account.balance), account.last.replace(number));
        }
        let reason = refused.or(payment.reason);
        self.decision.entries.push(Entry { step: at, currency, balance, number, previous, epoch, reason });
    }

    /// Whether this payment was decided before, and if so, whether it was another one.
    fn known(&self, at: usize, step: &Step, payment: &Payment) -> Option<bool> {
        let differs = |receiver: &str, amount: i64, currency: Option<Currency>| {
            receiver != payment.receiver
                || amount != payment.amount
                || payment.currency.is_some_and(|wanted| currency.is_some_and(|currency| currency != wanted))
        };
        if let Some(Content { receiver, amount, currency }) = self.before.decided.get(&step.first) {
            return Some(differs(receiver, *amount, Some(*currency)));
        }
        if step.first == at {
            return None;
        }
        match &self.plan.steps[step.first].instruction {
            Instruction::Pay(first) => Some(differs(&first.receiver, first.amount, self.currencies[step.first])),
            _ => None,
        }
    }

    /// Whether the payment can be made.
    fn judge(&self, account: Option<&Account>, payment: &Payment, currency: Currency) -> Result<(), Reason> {
        let fits = |account: &Account, most: i64| {
            account.balance.checked_add(payment.amount).is_some_and(|balance| balance <= most)
        };
        match (payment.leg, account) {
            (Leg::Outgoing, _) if payment.sender == payment.receiver => Err(Reason::ToItself),
            (Leg::Outgoing, None) => {
                // As if it had been opened just now: where limits are below zero, whoever comes first may pay first.
                let may_open = self.rules.open_on_first_credit && currency == self.rules.currency;
                if may_open && -payment.amount >= self.rules.default_limit { Ok(()) } else { Err(Reason::NoAccount) }
            }
            (Leg::Outgoing, Some(account)) if account.closed => Err(Reason::Closed),
            (Leg::Outgoing, Some(account)) if account.currency != currency => Err(Reason::OtherCurrency),
            (Leg::Outgoing, Some(account)) => {
                let left = account.balance.checked_sub(payment.amount);
                if left.is_some_and(|left| left >= account.limit) { Ok(()) } else { Err(Reason::Limit) }
            }
            (Leg::Incoming, None) if !self.rules.open_on_first_credit => Err(Reason::NoReceiver),
            (Leg::Incoming, Some(account)) if account.closed => Err(Reason::ReceiverClosed),
            (Leg::Incoming, Some(account)) if account.currency != currency => Err(Reason::ReceiverCurrency),
            (Leg::Incoming, Some(account)) if !fits(account, MAX_BALANCE) => Err(Reason::ReceiverFull),
            (Leg::Deposit, Some(account)) if account.closed => Err(Reason::Closed),
            // What comes back is taken even by a closed account: it has nowhere else to go.
            (Leg::Deposit | Leg::Returned, Some(account)) if account.currency != currency => Err(Reason::OtherCurrency),
            (Leg::Deposit, Some(account)) if !fits(account, MAX_BALANCE) => Err(Reason::Full),
            (Leg::Returned, Some(account)) if !fits(account, i64::MAX) => Err(Reason::Full),
            (Leg::Incoming | Leg::Deposit | Leg::Returned, _) => Ok(()),
        }
    }

    /// The slot's totals after a payment, and what audits need know of it.
    fn keep_books(&mut self, step: &Step, payment: &Payment, currency: Currency, moved: bool) {
        let (amount, digest) = (i128::from(payment.amount), i128::from(step.digest));
        let epoch = self.books(step.slot).epoch;
        let totals = self.books(step.slot).totals.entry(currency).or_default();
        match payment.leg {
            Leg::Deposit if moved => totals.deposited += amount,
            Leg::Outgoing if moved => {
                totals.sent += amount;
                totals.sent_digest += digest;
            }
            Leg::Deposit | Leg::Outgoing => return,
            Leg::Returned if !moved => return,
            Leg::Incoming | Leg::Returned => {
                totals.received += amount;
                totals.received_digest += digest;
                if !moved {
                    // It goes straight back.
                    totals.sent += amount;
                    totals.sent_digest += i128::from(digest_of_return(payment));
                }
                if payment.epoch < epoch {
                    let (slot, digest, amount) = (step.slot, step.digest, payment.amount);
                    let late = Late { slot, sent_in: payment.epoch, received_in: epoch, currency, amount, digest };
                    self.decision.late.push(late);
                }
            }
        }
        self.change_books(step.slot);
    }

    fn change(&mut self, at: usize, step: &Step, change: &Change) {
        let first = self.before.changed.get(&step.first).or_else(|| match &self.plan.steps[step.first].instruction {
            Instruction::Change { change, .. } if step.first != at => Some(change),
            _ => None,
        });
        if let Some(first) = first {
            if first != change {
                self.decision.conflicts.push(at);
            }
            return;
        }
        let refused = self.try_change(step.account, change).err();
        self.decision.changes.push(Changed { step: at, refused });
    }

    fn try_change(&mut self, place: usize, change: &Change) -> Result<(), Reason> {
        let account = self.before.accounts[place].as_ref();
        match (change, account) {
            (Change::Open { currency, limit }, None) => {
                let limit = limit.unwrap_or(self.rules.default_limit);
                if limit > 0 {
                    return Err(Reason::LimitAboveBalance);
                }
                self.open(place, currency.unwrap_or(self.rules.currency), limit);
            }
            (Change::Open { .. }, Some(account)) if !account.closed => return Err(Reason::Exists),
            (Change::Open { currency, limit }, Some(account)) => {
                if currency.is_some_and(|currency| currency != account.currency) {
                    return Err(Reason::OtherCurrency);
                }
                let limit = limit.unwrap_or(account.limit);
                if limit > account.balance {
                    return Err(Reason::LimitAboveBalance);
                }
                let account = self.open(place, account.currency, limit);
                (account.closed, account.limit) = (false, limit);
            }
            (Change::Limit { .. } | Change::Close, None) => return Err(Reason::NoAccount),
            (Change::Limit { .. } | Change::Close, Some(account)) if account.closed => return Err(Reason::Closed),
            (Change::Limit { limit }, Some(account)) if *limit > account.balance => {
                return Err(Reason::LimitAboveBalance);
            }
            (Change::Limit { limit }, Some(account)) => self.open(place, account.currency, *limit).limit = *limit,
            (Change::Close, Some(account)) if account.balance != 0 => return Err(Reason::NotEmpty),
            (Change::Close, Some(account)) => self.open(place, account.currency, account.limit).closed = true,
        }
        Ok(())
    }

    /// The account at a place, to be changed; one like this if there is none.
    fn open(&mut self, place: usize, currency: Currency, limit: i64) -> &mut Account {
        self.touched[place] = true;
        let fresh = || Account { currency, balance: 0, limit, closed: false, last: None };
        self.before.accounts[place].get_or_insert_with(fresh)
    }

    fn books(&mut self, slot: u32) -> &mut Books {
        self.before.books.entry(slot).or_default()
    }

    fn change_books(&mut self, slot: u32) {
        // Filled in at the end: what counts is how the books stand then.
        self.decision.books.entry(slot).or_default();
    }

    /// Takes part in an audit that the slot has not taken part in.
    fn cut(&mut self, step: &Step, epoch: i64) {
        let books = self.books(step.slot);
        if epoch <= books.epoch {
            return;
        }
        books.epoch = epoch;
        let totals = books.totals.clone();
        self.decision.cuts.push(Cut { slot: step.slot, epoch, timestamp: step.timestamp, totals });
        self.change_books(step.slot);
    }

    fn finish(self) -> Decision {
        let Self { before, touched, new, mut decision, .. } = self;
        for (slot, books) in &mut decision.books {
            *books = before.books.get(slot).cloned().unwrap_or_default();
        }
        let accounts = before.accounts.into_iter().zip(touched).zip(new).enumerate();
        decision.accounts = accounts
            .filter_map(|(place, ((account, touched), new))| Some((place, account.filter(|_| touched)?, new)))
            .collect();
        decision
    }
}
