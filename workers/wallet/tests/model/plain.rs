//! What a wallet does, one instruction after another and as plainly as it can be said.

use std::collections::HashMap;

use shardlane_wallet::ledger::Rules;
use shardlane_wallet::money::{Currency, MAX_BALANCE};
use shardlane_wallet::wire::{Change, Instruction, Leg, Payment};

use crate::world::{Id, id_of};

#[derive(Clone, Debug, PartialEq)]
pub struct PlainAccount {
    pub currency: Currency,
    pub balance: i64,
    pub limit: i64,
    pub closed: bool,
}

#[derive(Debug, Default)]
pub struct Plain {
    pub accounts: HashMap<String, PlainAccount>,
    pub moved: HashMap<Id, bool>,
    pub refused: HashMap<(String, String), bool>,
    pub conflicts: usize,
    first: HashMap<Id, (String, i64, Currency)>,
    changes: HashMap<(String, String), Change>,
}

impl Plain {
    pub fn apply(&mut self, rules: &Rules, instruction: &Instruction) {
        match instruction {
            Instruction::Pay(payment) => self.pay(rules, payment),
            Instruction::Change { account, request_id, change } => {
                let id = (account.clone(), request_id.clone());
                if let Some(known) = self.changes.get(&id) {
                    self.conflicts += usize::from(known != change);
                    return;
                }
                self.changes.insert(id.clone(), change.clone());
                let done = self.change(rules, account, change);
                self.refused.insert(id, !done);
            }
            Instruction::Mark { .. } => {}
        }
    }

    fn pay(&mut self, rules: &Rules, payment: &Payment) {
        let id = id_of(payment);
        if let Some((receiver, amount, currency)) = self.first.get(&id) {
            let same = *receiver == payment.receiver
                && *amount == payment.amount
                && payment.currency.is_none_or(|wanted| wanted == *currency);
            self.conflicts += usize::from(!same);
            return;
        }
        let name = if payment.leg == Leg::Incoming { &payment.receiver } else { &payment.sender };
        let own = self.accounts.get(name).map(|account| account.currency);
        let currency = payment.currency.or(own).unwrap_or(rules.currency);
        self.first.insert(id.clone(), (payment.receiver.clone(), payment.amount, currency));
        let moved = self.try_pay(rules, payment, name, currency);
        self.moved.insert(id, moved);
    }

    fn try_pay(&mut self, rules: &Rules, payment: &Payment, name: &str, currency: Currency) -> bool {
        let new = PlainAccount { currency, balance: 0, limit: rules.default_limit, closed: false };
        let mut account = match self.accounts.get(name) {
            Some(account) => account.clone(),
            None if payment.leg == Leg::Incoming && !rules.open_on_first_credit => return false,
            None if payment.leg == Leg::Outgoing && (!rules.open_on_first_credit || currency != rules.currency) => {
                return false;
            }
            None => new,
        };
        if payment.leg == Leg::Outgoing && payment.sender == payment.receiver
            || account.closed && payment.leg != Leg::Returned
            || account.currency != currency
        {
            return false;
        }
        if payment.leg == Leg::Outgoing {
            if account.balance - payment.amount < account.limit {
                return false;
            }
            account.balance -= payment.amount;
        } else {
            if payment.leg != Leg::Returned && account.balance > MAX_BALANCE - payment.amount {
                return false;
            }
            account.balance += payment.amount;
        }
        self.accounts.insert(name.to_owned(), account);
        true
    }

    fn change(&mut self, rules: &Rules, name: &str, change: &Change) -> bool {
        match (change, self.accounts.get_mut(name)) {
            (Change::Open { currency, limit }, None) => {
                let limit = limit.unwrap_or(rules.default_limit);
                if limit > 0 {
                    return false;
                }
                let currency = currency.unwrap_or(rules.currency);
                let account = PlainAccount { currency, balance: 0, limit, closed: false };
                self.accounts.insert(name.to_owned(), account);
                true
            }
            (Change::Open { currency, limit }, Some(account)) if account.closed => {
                let limit = limit.unwrap_or(account.limit);
                if currency.is_some_and(|currency| currency != account.currency) || limit > account.balance {
                    return false;
                }
                (account.closed, account.limit) = (false, limit);
                true
            }
            (Change::Limit { limit }, Some(account)) if !account.closed && *limit <= account.balance => {
                account.limit = *limit;
                true
            }
            (Change::Close, Some(account)) if !account.closed && account.balance == 0 => {
                account.closed = true;
                true
            }
            _ => false,
        }
    }
}
