//! Batches decide what one instruction after another decides, however they are cut.

use proptest::prelude::*;
use shardlane_runtime::service::Accepted;
use shardlane_wallet::ledger::Rules;
use shardlane_wallet::money::Currency;
use shardlane_wallet::wire::{Change, Debit, Instruction, Leg, Payment};

use crate::plain::{Plain, PlainAccount};
use crate::world::{Shard, currency, rules};

/// Few of each, so that they meet.
fn instruction() -> impl Strategy<Value = Instruction> {
    let name = || (0..4_u8).prop_map(|n| format!("account-{n}"));
    let request = || (0..12_u8).prop_map(|n| format!("r{n}"));
    let money = || prop_oneof![Just(None), Just(Some(currency("EUR"))), Just(Some(currency("USD")))];
    let leg = prop_oneof![
        4 => Just(Leg::Outgoing), 3 => Just(Leg::Incoming), 1 => Just(Leg::Returned), 2 => Just(Leg::Deposit)
    ];
    let debit = (0..2_u32, 1..8_i64).prop_map(|(slot, number)| Debit { slot, number });
    let pay = (leg, request(), name(), name(), 1..60_i64, money(), debit).prop_map(
        |(leg, request_id, sender, receiver, amount, currency, debit)| {
            let receiver = if leg == Leg::Deposit { sender.clone() } else { receiver };
            let sent = matches!(leg, Leg::Incoming | Leg::Returned);
            let currency = if sent { currency.or(Some(self::currency("EUR"))) } else { currency };
            let debit = sent.then_some(debit);
            Instruction::Pay(Payment {
                leg,
                request_id,
                sender,
                receiver,
                amount,
                currency,
                epoch: 0,
                debit,
                reason: None,
            })
        },
    );
    let change = prop_oneof![
        (money(), prop_oneof![Just(None), Just(Some(-100)), Just(Some(5))])
            .prop_map(|(currency, limit)| Change::Open { currency, limit }),
        (-50..50_i64).prop_map(|limit| Change::Limit { limit }),
        Just(Change::Close),
    ];
    let change = (name(), request(), change).prop_map(|(account, request_id, change)| Instruction::Change {
        account,
        request_id,
        change,
    });
    prop_oneof![6 => pay, 2 => change]
}

fn some_rules() -> impl Strategy<Value = Rules> {
    (any::<bool>(), prop_oneof![Just(0_i64), Just(-40)]).prop_map(|(open_on_first_credit, default_limit)| Rules {
        default_limit,
        open_on_first_credit,
        ..rules()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_batch_is_what_its_instructions_are_one_by_one(
        rules in some_rules(),
        log in prop::collection::vec(instruction(), 1..60),
        cuts in prop::collection::vec(0..60_usize, 0..6),
    ) {
        let (mut plain, mut shard) = (Plain::default(), Shard::default());
        for instruction in &log {
            plain.apply(&rules, instruction);
        }
        let accepted: Vec<_> = log
            .iter()
            .enumerate()
            .map(|(at, request)| {
                let offset = i64::try_from(at).unwrap();
                Accepted { slot: 0, offset, timestamp: offset, request: request.clone() }
            })
            .collect();
        let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut.min(log.len())).chain([log.len()]).collect();
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            shard.apply(0, &rules, accepted[start..end].to_vec(), |_| {});
            start = end;
        }
        // Replayed from the start, nothing changes any more.
        let once = shard.accounts.clone();
        let conflicts = shard.conflicts;
        shard.apply(0, &rules, accepted, |decision| {
            assert!(decision.entries.is_empty() && decision.changes.is_empty() && decision.accounts.is_empty());
        });
        prop_assert_eq!(&once, &shard.accounts);

        let held = once.iter().map(|(name, account)| {
            let (currency, balance, limit, closed): (Currency, _, _, _) =
                (account.currency, account.balance, account.limit, account.closed);
            (name.clone(), PlainAccount { currency, balance, limit, closed })
        });
        prop_assert_eq!(held.collect::<std::collections::HashMap<_, _>>(), plain.accounts);
        prop_assert_eq!(&shard.moved, &plain.moved);
        prop_assert_eq!(&shard.refused, &plain.refused);
        prop_assert_eq!(conflicts, plain.conflicts);
        for (name, account) in &once {
            prop_assert!(account.balance >= account.limit, "{} is under its limit", name);
        }
        prop_assert!(shard.tell(0).off.is_empty(), "{:?}", shard.tell(0).off);
    }
}
