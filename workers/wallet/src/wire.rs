//! The records of a wallet: transfers as users ask for them, and instructions as they reach an account's slot.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use shardlane_runtime::record::{Record, check_request_id};
use shardlane_runtime::service::Rejection;

use crate::money::{self, Currency, Minor};
use crate::reason::Reason;

/// Longest account id, in bytes.
pub const MAX_ACCOUNT: usize = 128;
/// What the ids of accounts begin with that no user has: the other sides of deposits and of money in transit.
pub const SYSTEM: char = '@';
/// Where the keys begin by which every slot is told of an audit.
const MARK: &str = "@audit-";
/// Highest number of an audit.
pub const MAX_EPOCH: i64 = 1 << 53;

/// A transfer as it lies in the topic of requests, and as users send it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest<'a> {
    /// Chosen by whoever asks; the same for every retry.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The account that pays.
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    /// How much, e.g. `0.50`.
    #[serde(borrow)]
    pub amount: Cow<'a, str>,
    /// The account that is paid.
    #[serde(borrow)]
    pub to: Cow<'a, str>,
    /// The currency; that of the paying account if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
}

/// What an instruction does to its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Takes an amount from it, for another.
    Outgoing,
    /// Adds an amount that another has paid.
    Incoming,
    /// Adds an amount that it had paid and that could not be credited.
    Returned,
    /// Adds an amount from outside.
    Deposit,
    /// Opens it.
    Open,
    /// Changes its limit.
    Limit,
    /// Closes it.
    Close,
    /// Says that an audit begins. Its account is none.
    Audit,
}

/// An instruction as it lies in the topic of payments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRecord<'a> {
    /// The request's.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The account that it is for: the record's key.
    #[serde(borrow)]
    pub account: Cow<'a, str>,
    /// What it does to the account.
    pub direction: Direction,
    /// How much, e.g. `0.50`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Cow<'a, str>>,
    /// The currency; the account's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// The account that pays, unless it is this one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'a, str>>,
    /// The account that is paid, unless it is this one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Cow<'a, str>>,
    /// The audit in which the sending slot was, or which begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The lowest balance that the account may have.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Cow<'a, str>>,
    /// The debit from which the amount comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debit: Option<Debit>,
    /// Why an amount comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// An entry that took money from its account: where it is, for ever and for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Debit {
    /// The slot of the account that paid.
    pub slot: u32,
    /// The entry's number there.
    pub number: i64,
}

impl<'a> PaymentRecord<'a> {
    /// A record with nothing but what every one has.
    pub fn new(direction: Direction, account: &'a str, request_id: &'a str) -> Self {
        Self {
            request_id: request_id.into(),
            account: account.into(),
            direction,
            amount: None,
            currency: None,
            from: None,
            to: None,
            epoch: None,
            limit: None,
            debit: None,
            reason: None,
        }
    }
}

/// One of the four ways in which money enters or leaves an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// Takes an amount from the sender.
    Outgoing,
    /// Brings it to the receiver.
    Incoming,
    /// Brings it back to the sender.
    Returned,
    /// Brings an amount from outside.
    Deposit,
}

impl Leg {
    /// As it is in the shard.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outgoing => "outgoing",
            Self::Incoming => "incoming",
            Self::Returned => "returned",
            Self::Deposit => "deposit",
        }
    }
}

/// Money that is to enter or leave an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The way.
    pub leg: Leg,
    /// The request.
    pub request_id: String,
    /// The account that pays; a deposit's is its account.
    pub sender: String,
    /// The account that is paid.
    pub receiver: String,
    /// How much, in minor units: more than zero.
    pub amount: i64,
    /// The currency; the account's own if absent.
    pub currency: Option<Currency>,
    /// The audit in which the sending slot was when it sent this; 0 if no slot has.
    pub epoch: i64,
    /// The debit from which it comes, if it comes from one.
    pub debit: Option<Debit>,
    /// Why it comes back.
    pub reason: Option<Reason>,
}

/// By what a payment is known, so that it is made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity<'a> {
    /// Asked for by whoever pays: leg, account and request.
    Asked(Leg, &'a str, &'a str),
    /// What comes of a debit.
    Follows(Leg, Debit),
}

impl Payment {
    /// By what it is known.
    pub fn identity(&self) -> Identity<'_> {
        match self.debit {
            Some(debit) => Identity::Follows(self.leg, debit),
            None => Identity::Asked(self.leg, &self.sender, &self.request_id),
        }
    }

    /// The account that it is for.
    pub fn account(&self) -> &str {
        if self.leg == Leg::Incoming { &self.receiver } else { &self.sender }
    }
}

/// A change of an account that moves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Opens it, or opens it again.
    Open {
        /// Its currency; the service's own if absent.
        currency: Option<Currency>,
        /// Its lowest balance, in minor units; the service's own if absent.
        limit: Option<i64>,
    },
    /// Changes its lowest balance, in minor units.
    Limit {
        /// The new one.
        limit: i64,
    },
    /// Closes it.
    Close,
}

/// An instruction that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Moves money.
    Pay(Payment),
    /// Changes an account.
    Change {
        /// The account.
        account: String,
        /// The request.
        request_id: String,
        /// What is changed.
        change: Change,
    },
    /// An audit begins.
    Mark {
        /// Its number.
        epoch: i64,
    },
}

/// Checks an account's id; the text says what to do.
pub fn check_account(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_ACCOUNT {
        return Err(format!("an account's id has 1 to {MAX_ACCOUNT} bytes; this has {}", id.len()));
    }
    if id.starts_with(SYSTEM) {
        return Err(format!("an account's id does not begin with {SYSTEM}: such are the system's own"));
    }
    if id.chars().any(char::is_control) {
        return Err("an account's id has no control characters".to_owned());
    }
    Ok(())
}

/// Understands a record of the topic of requests.
pub fn parse_request<'a>(record: &Record<'a>) -> Result<(TransferRequest<'a>, i64), Rejection> {
    let value = record.value.ok_or_else(|| Rejection::new("empty", "the record has no value"))?;
    let request: TransferRequest<'_> = serde_json::from_slice(value).map_err(|error| {
        let shape = r#"{"request_id": "...", "from": "...", "amount": "0.50", "to": "..."}"#;
        Rejection::new("malformed", format!("not {shape}: {error}"))
    })?;
    if record.key != Some(request.request_id.as_bytes()) {
        let reason = format!("the key must be the request_id, {:?}", request.request_id);
        return Err(Rejection::new("not_canonical", reason));
    }
    let amount = check_request(&request).map_err(|(kind, reason)| Rejection::new(kind, reason))?;
    Ok((request, amount))
}

/// Checks a request, and gives its amount in minor units. Otherwise a word for metrics, and what to do.
pub fn check_request(request: &TransferRequest<'_>) -> Result<i64, (&'static str, String)> {
    check_request_id(&request.request_id).map_err(|reason| ("request_id", reason))?;
    check_account(&request.from).map_err(|reason| ("account", format!("from: {reason}")))?;
    check_account(&request.to).map_err(|reason| ("account", format!("to: {reason}")))?;
    money::amount(&request.amount).map_err(|error| ("amount", error.to_string()))
}

/// Understands a record of the topic of payments.
pub fn parse_payment(record: &Record<'_>) -> Result<Instruction, Rejection> {
    let value = record.value.ok_or_else(|| Rejection::new("empty", "the record has no value"))?;
    let payment: PaymentRecord<'_> = serde_json::from_slice(value).map_err(|error| {
        let shape =
            r#"{"request_id": "...", "account": "...", "direction": "outgoing", "amount": "0.50", "to": "..."}"#;
        Rejection::new("malformed", format!("not {shape}: {error}"))
    })?;
    if record.key != Some(payment.account.as_bytes()) {
        return Err(Rejection::new("not_canonical", format!("the key must be the account, {:?}", payment.account)));
    }
    if payment.direction == Direction::Audit {
        let epoch = payment.epoch.filter(|epoch| (1..=MAX_EPOCH).contains(epoch));
        let mark = epoch.filter(|_| payment.account.starts_with(MARK)).map(|epoch| Instruction::Mark { epoch });
        return mark.ok_or_else(|| Rejection::new("malformed", "an audit has a number, and a key of its own"));
    }
    check_account(&payment.account).map_err(|reason| Rejection::new("account", reason))?;
    check_request_id(&payment.request_id).map_err(|reason| Rejection::new("request_id", reason))?;
    let leg = match payment.direction {
        Direction::Outgoing => Leg::Outgoing,
        Direction::Incoming => Leg::Incoming,
        Direction::Returned => Leg::Returned,
        Direction::Deposit => Leg::Deposit,
        _ => return parse_change(payment),
    };
    parse_leg(leg, payment)
}

fn parse_leg(leg: Leg, payment: PaymentRecord<'_>) -> Result<Instruction, Rejection> {
    let missing = |what: &str| Rejection::new("malformed", format!("{} needs {what}", leg.as_str()));
    let amount = payment.amount.ok_or_else(|| missing("an amount"))?;
    let amount = money::amount(&amount).map_err(|error| Rejection::new("amount", error.to_string()))?;
    let other = match leg {
        Leg::Outgoing | Leg::Returned => payment.to.ok_or_else(|| missing("to"))?,
        Leg::Incoming => payment.from.ok_or_else(|| missing("from"))?,
        Leg::Deposit => payment.account.clone(),
    };
    check_account(&other).map_err(|reason| Rejection::new("account", reason))?;
    let sent = matches!(leg, Leg::Incoming | Leg::Returned);
    let epoch = match payment.epoch {
        Some(epoch) if sent && !(0..=MAX_EPOCH).contains(&epoch) => return Err(missing("an epoch that can be")),
        // Money that no slot says it has sent would be money out of nothing.
        None if sent => return Err(missing("the epoch of the slot that sent it")),
        epoch => epoch.filter(|_| sent).unwrap_or(0),
    };
    if sent && payment.currency.is_none() {
        return Err(missing("a currency"));
    }
    let debit = payment.debit.filter(|_| sent);
    if sent && debit.is_none_or(|debit| debit.number < 1) {
        return Err(missing("the debit from which it comes"));
    }
    let (account, other) = (payment.account.into_owned(), other.into_owned());
    let (sender, receiver) = if leg == Leg::Incoming { (other, account) } else { (account, other) };
    let (request_id, currency, reason) = (payment.request_id.into_owned(), payment.currency, payment.reason);
    Ok(Instruction::Pay(Payment { leg, request_id, sender, receiver, amount, currency, epoch, debit, reason }))
}

fn parse_change(payment: PaymentRecord<'_>) -> Result<Instruction, Rejection> {
    let limit = payment.limit.as_deref().map(money::limit).transpose();
    let limit = limit.map_err(|error| Rejection::new("amount", error.to_string()))?;
    let change = match (payment.direction, limit) {
        (Direction::Open, limit) => Change::Open { currency: payment.currency, limit },
        (Direction::Limit, Some(limit)) => Change::Limit { limit },
        (Direction::Limit, None) => return Err(Rejection::new("malformed", "limit needs a limit")),
        _ => Change::Close,
    };
    let (account, request_id) = (payment.account.into_owned(), payment.request_id.into_owned());
    Ok(Instruction::Change { account, request_id, change })
}

/// The key by which a slot is told of audits: the first of its kind that lies there.
pub fn mark_key(slot: u32, slot_of: impl Fn(&[u8]) -> u32) -> String {
    let mut number = 0_u64;
    loop {
        let key = format!("{MARK}{number}");
        if slot_of(key.as_bytes()) == slot {
            return key;
        }
        number += 1;
    }
}

/// What tells a slot that an audit begins.
pub fn mark<'a>(key: &'a str, epoch: i64, request_id: &'a str) -> PaymentRecord<'a> {
    PaymentRecord { epoch: Some(epoch), ..PaymentRecord::new(Direction::Audit, key, request_id) }
}

/// What a request makes its sender's account do.
pub fn outgoing<'a>(request: &'a TransferRequest<'a>, amount: i64) -> PaymentRecord<'a> {
    PaymentRecord {
        amount: Some(Minor(amount).to_string().into()),
        currency: request.currency,
        to: Some(request.to.as_ref().into()),
        ..PaymentRecord::new(Direction::Outgoing, &request.from, &request.request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(key: &'a str, value: &'a str) -> Record<'a> {
        Record { slot: 0, offset: 0, timestamp: 0, key: Some(key.as_bytes()), value: Some(value.as_bytes()) }
    }

    #[test]
    fn a_transfer_as_the_original_client_writes_it_is_understood() {
        let value = r#"{"from":"Alice","to":"Bob","amount":"0.5","request_id":"2Pm4FX0Z5UGHSnYKKdvVgxtgHQb"}"#;
        let parsed = record("2Pm4FX0Z5UGHSnYKKdvVgxtgHQb", value);
        let (request, amount) = parse_request(&parsed).unwrap();
        assert_eq!((&*request.from, &*request.to, amount), ("Alice", "Bob", 50));
        let instruction = serde_json::to_string(&outgoing(&request, amount)).unwrap();
        let Instruction::Pay(payment) = parse_payment(&record("Alice", &instruction)).unwrap() else { panic!() };
        assert_eq!((payment.leg, &*payment.sender, &*payment.receiver), (Leg::Outgoing, "Alice", "Bob"));
        assert_eq!((payment.amount, payment.currency, payment.epoch), (50, None, 0));
    }

    #[test]
    fn what_is_no_transfer_says_why() {
        let rejected = |from: &str, amount: &str, id: &str| {
            let value = format!(r#"{{"request_id":{id},"from":{from},"amount":{amount},"to":"Bob"}}"#);
            let rejection = parse_request(&record(id.trim_matches('"'), &value)).unwrap_err();
            (rejection.kind, rejection.reason)
        };
        let (kind, reason) = rejected(r#""Alice""#, "0.5", r#""r""#);
        assert_eq!(kind, "malformed");
        assert!(reason.contains("expected a string"), "a number may have been rounded: {reason}");
        assert_eq!(rejected(r#""Alice""#, r#""1e3""#, r#""r""#).0, "amount");
        assert_eq!(rejected(r#""@deposits""#, r#""1""#, r#""r""#).0, "account");
        assert_eq!(rejected(r#""a\u0000""#, r#""1""#, r#""r""#).0, "account");
        assert_eq!(rejected(r#""""#, r#""1""#, r#""r""#).0, "account");
        assert_eq!(rejected(r#""Alice""#, r#""1""#, r#""""#).0, "request_id");
    }

    #[test]
    fn money_that_no_slot_has_sent_is_no_payment() {
        let rejected = |value: &str| parse_payment(&record("Bob", value)).unwrap_err().reason;
        let value = |more: &str| {
            format!(
                r#"{{"request_id":"r","account":"Bob","direction":"incoming","amount":"1.00","from":"Alice"{more}}}"#
            )
        };
        let debit = r#","debit":{"slot":3,"number":7}"#;
        assert!(rejected(&value(r#","currency":"EUR""#)).contains("epoch"));
        assert!(rejected(&value(r#","epoch":1"#)).contains("currency"));
        assert!(rejected(&value(r#","epoch":1,"currency":"EUR""#)).contains("debit"));
        assert!(rejected(&value(r#","epoch":-1,"currency":"EUR""#)).contains("epoch"));
        let whole = value(&format!(r#","epoch":1,"currency":"EUR","new_field":1{debit}"#));
        assert!(parse_payment(&record("Bob", &whole)).is_ok());
        assert!(parse_payment(&record("Ann", &whole)).is_err(), "another's key");
    }

    #[test]
    fn every_slot_has_a_key_for_audits() {
        let slot_of = |key: &[u8]| u32::from(key.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))) % 24;
        for slot in 0..24 {
            let key = mark_key(slot, slot_of);
            let value = serde_json::to_string(&mark(&key, 7, "audit-7")).unwrap();
            assert_eq!(slot_of(key.as_bytes()), slot);
            assert_eq!(parse_payment(&record(&key, &value)), Ok(Instruction::Mark { epoch: 7 }));
        }
    }
}
