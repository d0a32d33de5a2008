//! Whether any money came out of nothing or went into it, seen at a consistent cut and without stopping anything: pure.
//!
//! It is the snapshot of Lai and Yang ("On distributed snapshots", 1987) with slots as processes. A slot notes its totals before it
//! applies the first message of an audit; messages carry the audit in which their sender's slot was. So what the slots have noted
//! belongs together, and what was sent before it is what was received before it, and what comes late. An audit closes when
//! nothing is missing any more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ledger::{Totals, large};
use crate::money::{Currency, Minor};
use crate::wire::MAX_EPOCH;

/// What a worker tells of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotBooks {
    /// The slot.
    pub slot: u32,
    /// The last audit that it has taken part in.
    pub epoch: i64,
    /// Its parts of the last audits.
    pub cuts: Vec<SlotCut>,
    /// Where its accounts do not hold what they should; empty if that was not looked at.
    pub off: Vec<Off>,
}

/// A slot's part of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCut {
    /// The audit.
    pub epoch: i64,
    /// When the slot took part, in milliseconds since 1970.
    pub recorded_at: i64,
    /// What had gone through it.
    pub totals: BTreeMap<Currency, CutTotals>,
}

/// What had gone through a slot when it took part in an audit, and what came late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutTotals {
    /// What had gone through.
    pub totals: Totals,
    /// What was sent before the audit and came after it, in minor units.
    #[serde(with = "large")]
    pub late: i128,
    /// Sum of those messages' numbers.
    #[serde(with = "large")]
    pub late_digest: i128,
}

/// A slot whose accounts do not hold what has gone through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off {
    /// The currency.
    pub currency: Currency,
    /// What its accounts hold, in minor units.
    #[serde(with = "large")]
    pub held: i128,
    /// What they should hold, in minor units.
    #[serde(with = "large")]
    pub booked: i128,
}

/// Money of one currency at a cut, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Money {
    /// What came from outside.
    pub deposited: i128,
    /// What accounts held.
    pub balances: i128,
    /// What was on its way.
    pub in_transit: i128,
}

/// What an audit has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that was sent has been received, once.
    Closed,
    /// This is still on its way.
    Open(BTreeMap<Currency, i128>),
    /// Money came out of nothing, or one message stands for another.
    Broken(Vec<Problem>),
}

/// Something that is wrong with the money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The currency, if it is one of some currency.
    pub currency: Option<Currency>,
    /// What it is, for a person.
    pub text: String,
}

impl Problem {
    fn of(currency: Currency, text: String) -> Self {
        Self { currency: Some(currency), text }
    }
}

/// An audit that all slots have taken part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Its number.
    pub epoch: i64,
    /// When the first slot took part, in milliseconds since 1970.
    pub cut_at: i64,
    /// The money, by currency.
    pub money: BTreeMap<Currency, Money>,
    /// What it has found.
    pub verdict: Verdict,
}

/// All audits that all slots remember, the oldest first.
pub fn audits(books: &[SlotBooks]) -> Vec<Audit> {
    let taken_part = |books: &SlotBooks| books.cuts.iter().map(|cut| cut.epoch).collect::<BTreeSet<_>>();
    let shared = books.iter().map(taken_part).reduce(|all, some| &all & &some).unwrap_or_default();
    shared.into_iter().map(|epoch| audit(epoch, books)).collect()
}

fn audit(epoch: i64, books: &[SlotBooks]) -> Audit {
    let cuts = || books.iter().flat_map(|books| &books.cuts).filter(move |cut| cut.epoch == epoch);
    let mut sums: BTreeMap<Currency, CutTotals> = BTreeMap::new();
    for (currency, part) in cuts().flat_map(|cut| &cut.totals) {
        let sum = sums.entry(*currency).or_default();
        sum.totals.deposited += part.totals.deposited;
        sum.totals.sent += part.totals.sent;
        sum.totals.received += part.totals.received;
        sum.totals.sent_digest += part.totals.sent_digest;
        sum.totals.received_digest += part.totals.received_digest;
        sum.late += part.late;
        sum.late_digest += part.late_digest;
    }
    let money = |CutTotals { totals, .. }: &CutTotals| Money {
        deposited: totals.deposited,
        balances: totals.deposited + totals.received - totals.sent,
        in_transit: totals.sent - totals.received,
    };
    Audit {
        epoch,
        cut_at: cuts().map(|cut| cut.recorded_at).min().unwrap_or_default(),
        money: sums.iter().map(|(currency, sum)| (*currency, money(sum))).collect(),
        verdict: verdict(epoch, &sums),
    }
}

fn verdict(epoch: i64, sums: &BTreeMap<Currency, CutTotals>) -> Verdict {
    let (mut missing, mut broken) = (BTreeMap::new(), Vec::new());
    for (currency, CutTotals { totals, late, late_digest }) in sums {
        let left = totals.sent - totals.received - late;
        if left < 0 {
            let much = Minor(-left);
            let text = format!("audit {epoch}: {much} {currency} more were received than had been sent");
            broken.push(Problem::of(*currency, text));
        } else if left > 0 {
            missing.insert(*currency, left);
        } else if totals.sent_digest != totals.received_digest + late_digest {
            let text =
                format!("audit {epoch}: as much {currency} was received as had been sent, but by other messages");
            broken.push(Problem::of(*currency, text));
        }
    }
    if !broken.is_empty() {
        Verdict::Broken(broken)
    } else if missing.is_empty() {
        Verdict::Closed
    } else {
        Verdict::Open(missing)
    }
}

/// What is known of the money.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last audit that has closed.
    pub closed: Option<Audit>,
    /// A later one, and what it waits for.
    pub open: Option<(i64, String)>,
    /// What is wrong; empty if promise 3 holds.
    pub problems: Vec<Problem>,
}

/// What the books say.
pub fn report(books: &[SlotBooks]) -> Report {
    let mut report = Report::default();
    for audit in audits(books) {
        match &audit.verdict {
            Verdict::Closed => {
                report.open = None;
                report.closed = Some(audit);
            }
            Verdict::Open(missing) => {
                let missing: Vec<_> =
                    missing.iter().map(|(currency, left)| format!("{} {currency}", Minor(*left))).collect();
                report.open = Some((audit.epoch, format!("{} on the way", missing.join(", "))));
            }
            Verdict::Broken(broken) => report.problems.extend(broken.iter().cloned()),
        }
    }
    let newest = newest(books);
    if newest >= MAX_EPOCH {
        let text = format!("there is no audit after {newest}: somebody has written a message of it");
        report.problems.push(Problem { currency: None, text });
    }
    let absent = absent(books, newest);
    if !absent.is_empty() {
        let slots: Vec<_> = absent.iter().map(u32::to_string).collect();
        report.open = Some((newest, format!("slots that have not taken part: {}", slots.join(", "))));
    }
    report
}

/// Where accounts do not hold what has gone through their slots.
pub fn imbalances(books: &[SlotBooks]) -> Vec<Problem> {
    let told = |slot: u32, Off { currency, held, booked }: &Off| {
        let (held, booked) = (Minor(*held), Minor(*booked));
        let text = format!("slot {slot}: its accounts hold {held} {currency}, but {booked} have gone through it");
        Problem::of(*currency, text)
    };
    books.iter().flat_map(|books| books.off.iter().map(|off| told(books.slot, off))).collect()
}

/// The audit that began last.
pub fn newest(books: &[SlotBooks]) -> i64 {
    books.iter().map(|books| books.epoch).max().unwrap_or_default()
}

fn absent(books: &[SlotBooks], epoch: i64) -> Vec<u32> {
    books.iter().filter(|books| books.epoch < epoch).map(|books| books.slot).collect()
}

/// Which slots are to be told of which audit now; `due`: it is time for another one.
///
/// Another one begins only when the last has closed, or will never: so slots need not remember many.
pub fn call(books: &[SlotBooks], due: bool) -> Option<(i64, Vec<u32>)> {
    let newest = newest(books);
    let absent = absent(books, newest);
    if !absent.is_empty() {
        return Some((newest, absent));
    }
    let last = audits(books).pop().filter(|audit| audit.epoch == newest);
    let over = last.is_none_or(|audit| !matches!(audit.verdict, Verdict::Open(_)));
    (due && over && newest < MAX_EPOCH).then(|| (newest + 1, books.iter().map(|books| books.slot).collect()))
}
