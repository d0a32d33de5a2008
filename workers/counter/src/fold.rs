//! A flush of increments, brought into the form in which it is written: no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use shardlane_runtime::service::Accepted;
use uuid::Uuid;

use crate::wire::Increment;

/// By how much a counter rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raise {
    /// The counter's slot.
    pub slot: u32,
    /// By how much; wider than a counter, so that adding never overflows here.
    pub by: i128,
}

/// An increment that counts once however often it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The counter's slot.
    pub slot: u32,
    /// The counter.
    pub key: Uuid,
    /// What tells a retry.
    pub id: String,
    /// When its record was written, in milliseconds since 1970.
    pub at: i64,
    /// By how much the counter rises if it counts.
    pub value: i64,
}

/// Increments that are written together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterPlan {
    /// Counters that rise whatever the shard knows.
    pub raises: HashMap<Uuid, Raise>,
    /// Increments of which the shard must know whether they have counted, in the order of the log.
    pub uses: Vec<Use>,
}

impl CounterPlan {
    /// How many things are kept for it.
    pub fn size(&self) -> usize {
        self.raises.len() + self.uses.len()
    }

    /// Adds what follows in the log.
    pub fn add(&mut self, more: Arc<Self>) {
        let Self { raises, uses } = Arc::unwrap_or_clone(more);
        if self.size() == 0 {
            *self = Self { raises, uses };
            return;
        }
        for (key, Raise { slot, by }) in raises {
            raise(&mut self.raises, key, slot, by);
        }
        self.uses.extend(uses);
    }
}

fn raise(raises: &mut HashMap<Uuid, Raise>, key: Uuid, slot: u32, by: i128) {
    raises.entry(key).or_insert(Raise { slot, by: 0 }).by += by;
}

/// Folds what was read.
pub fn fold(increments: Vec<Accepted<Increment>>) -> CounterPlan {
    let mut plan = CounterPlan::default();
    for Accepted { slot, timestamp: at, request: Increment { key, value, id }, .. } in increments {
        match id {
            None => raise(&mut plan.raises, key, slot, value.into()),
            Some(id) => plan.uses.push(Use { slot, key, id, at, value }),
        }
    }
    plan
}

/// When increments have counted: by the counter and by what tells a retry.
pub type Counted = HashMap<(Uuid, String), i64>;

/// What becomes of a plan's uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Counters that rise by those that count.
    pub raises: HashMap<Uuid, Raise>,
    /// Of each id the use that counts now, the last one if several do.
    pub first: HashMap<(Uuid, &'a str), &'a Use>,
}

/// Decides which of a plan's uses count: the first of its id, and one that comes more than `window` milliseconds after it. Times are
/// the records', so that a replay decides the same.
pub fn decide<'a>(plan: &'a CounterPlan, counted: &Counted, window: i64) -> Decision<'a> {
    let mut decision = Decision::default();
    for each in &plan.uses {
        let Use { slot, key, id, at, value } = each;
        let now = decision.first.get(&(*key, &**id)).map(|first| first.at);
        let before = now.or_else(|| counted.get(&(*key, id.clone())).copied());
        if before.is_some_and(|first| at.saturating_sub(first) <= window) {
            continue;
        }
        decision.first.insert((*key, id), each);
        raise(&mut decision.raises, *key, *slot, (*value).into());
    }
    decision
}

/// By how much each counter of a plan rises, in the order of their keys: Postgres then walks its index from left to right.
pub fn raises(plan: &CounterPlan, mut used: HashMap<Uuid, Raise>) -> Vec<(Uuid, Raise)> {
    let whole = |(key, raise): (&Uuid, &Raise)| {
        let by = raise.by + used.remove(key).map_or(0, |used| used.by);
        (*key, Raise { by, ..*raise })
    };
    let mut raises: Vec<_> = plan.raises.iter().map(whole).collect();
    raises.extend(used);
    raises.sort_unstable_by_key(|(key, _)| *key);
    raises
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: i64 = 10;

    fn increment(offset: i64, key: u128, value: i64, id: Option<u8>) -> Accepted<Increment> {
        let request = Increment { key: Uuid::from_u128(key), value, id: id.map(|id| id.to_string()) };
        Accepted { slot: 1, offset, timestamp: offset, request }
    }

    /// What a program makes of it that takes one increment after the other.
    fn plainly(log: &[Accepted<Increment>]) -> HashMap<Uuid, i128> {
        let (mut values, mut counted) = (HashMap::new(), Counted::new());
        for Accepted { timestamp, request: Increment { key, value, id }, .. } in log {
            if let Some(id) = id {
                let known = (*key, id.clone());
                if counted.get(&known).is_some_and(|first| timestamp - first <= WINDOW) {
                    continue;
                }
                counted.insert(known, *timestamp);
            }
            *values.entry(*key).or_insert(0) += i128::from(*value);
        }
        values
    }

    fn counted(first: &HashMap<(Uuid, &str), &Use>) -> Counted {
        first.iter().map(|((key, id), each)| ((*key, (*id).to_owned()), each.at)).collect()
    }

    fn flushed(log: &[Accepted<Increment>], cuts: &[(usize, bool)]) -> HashMap<Uuid, i128> {
        let (mut values, mut known) = (HashMap::new(), Counted::new());
        let mut waiting = CounterPlan::default();
        let mut rest = log;
        for (length, flush) in cuts.iter().copied().chain([(log.len(), true)]) {
            let (batch, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            waiting.add(Arc::new(fold(batch.to_vec())));
            if flush {
                let plan = std::mem::take(&mut waiting);
                let Decision { raises: used, first } = decide(&plan, &known, WINDOW);
                known.extend(counted(&first));
                for (key, raise) in raises(&plan, used) {
                    *values.entry(key).or_insert(0) += raise.by;
                }
            }
        }
        values
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_comes_to_the_same(
            log in prop::collection::vec((0..4_u128, prop_oneof![1..10_i64, Just(i64::MAX)], prop::option::of(0..3_u8)), 0..80),
            cuts in prop::collection::vec((0..12_usize, any::<bool>()), 0..20),
        ) {
            let log: Vec<_> = log.into_iter().zip(0..).map(|((key, value, id), at)| increment(at, key, value, id)).collect();
            prop_assert_eq!(flushed(&log, &cuts), plainly(&log));
        }
    }

    #[test]
    fn a_retry_adds_nothing_within_the_window_and_counts_after_it() {
        let plan = fold(vec![
            increment(0, 1, 5, Some(1)),
            increment(WINDOW, 1, 5, Some(1)),
            increment(WINDOW + 1, 1, 7, Some(1)),
        ]);
        let Decision { raises, first } = decide(&plan, &Counted::new(), WINDOW);
        assert_eq!(raises[&Uuid::from_u128(1)].by, 12);
        let first = counted(&first);
        assert_eq!(first, Counted::from([((Uuid::from_u128(1), "1".to_owned()), WINDOW + 1)]));
        let Decision { raises, .. } = decide(&plan, &first, WINDOW);
        assert!(raises.is_empty(), "all of it again, and nothing counts");
    }

    #[test]
    fn one_id_on_two_counters_is_two_increments() {
        let plan = fold(vec![increment(0, 1, 5, Some(1)), increment(1, 2, 5, Some(1))]);
        assert_eq!(decide(&plan, &Counted::new(), WINDOW).raises.len(), 2);
    }
}
