//! What a mover that is gone has left in the shards, and what is to be done about it: pure.

use std::collections::BTreeMap;

use shardlane_runtime::hint::Hint;

use super::edges::{Attempt, Group, SlotRow, State};

/// What the shards say of all slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Who owns each slot, those on their way counted as their new owner's.
    pub owners: BTreeMap<u32, u32>,
    /// What is to be told of those that stay where they are.
    pub hints: Vec<Hint>,
    /// Handed over, and not active yet: to be gone through with.
    pub forward: Vec<Attempt>,
    /// Begun, and not handed over: to be undone in the source.
    pub undo: Vec<Attempt>,
    /// Expected in a shard to which nothing is on its way any more: to be forgotten there. `from` says nothing.
    pub forget: Vec<Attempt>,
    /// Moved and active elsewhere: to be cleaned.
    pub clean: Vec<Attempt>,
}

/// Why nothing can be moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disorder {
    /// A slot has two owners.
    #[error(
        "slot {slot} is owned by the shards of partitions {one} and {other}: a database was taken back to an earlier state. \
         Nothing was moved; \"mover verify\" shows what lies where"
    )]
    Twice {
        /// The slot.
        slot: u32,
        /// An owner.
        one: u32,
        /// Another.
        other: u32,
    },
    /// A slot has none.
    #[error(
        "slot {slot} is owned by no shard: a database was lost or taken back to an earlier state, or a Secret leads to \
         another one; restore it. Nothing was moved"
    )]
    Missing {
        /// The slot.
        slot: u32,
    },
}

/// Reads the rows of all shards.
pub fn found(rows: &[SlotRow], slots: u32) -> Result<Found, Disorder> {
    let mut found = Found::default();
    let (mut forward, mut undo, mut forget, mut clean) = <(Pieces, Pieces, Pieces, Pieces)>::default();
    for row in rows.iter().filter(|row| row.slot < slots && row.state.owns()) {
        if let Some(one) = found.owners.insert(row.slot, row.partition) {
            return Err(Disorder::Twice { slot: row.slot, one, other: row.partition });
        }
        found.hints.push(Hint { slot: row.slot, partition: row.partition, epoch: row.epoch });
        if row.state != State::Active {
            undo.add(row, row.partition, row.partition);
        }
    }
    for row in rows.iter().filter(|row| row.slot < slots && row.state == State::Incoming) {
        match sender(rows, row).filter(|_| !found.owners.contains_key(&row.slot)) {
            Some(from) => {
                forward.add(row, from, row.partition);
                found.owners.insert(row.slot, row.partition);
            }
            None => forget.add(row, row.partition, row.partition),
        }
    }
    if let Some(slot) = (0..slots).find(|slot| !found.owners.contains_key(slot)) {
        return Err(Disorder::Missing { slot });
    }
    for row in rows.iter().filter(|row| row.slot < slots && row.state == State::Moved) {
        let to = found.owners.get(&row.slot).copied().unwrap_or(row.partition);
        clean.add(row, row.partition, to);
    }
    (found.forward, found.undo) = (forward.attempts(), undo.attempts());
    (found.forget, found.clean) = (forget.attempts(), clean.attempts());
    Ok(found)
}

/// Who has handed the slot of an `incoming` row over to its shard, if anybody has.
pub fn sender(rows: &[SlotRow], incoming: &SlotRow) -> Option<u32> {
    let sent = rows.iter().find(|sent| {
        let here = sent.slot == incoming.slot && sent.moved_to == Some(incoming.partition);
        here && sent.state == State::Moved && sent.attempt.is_some() && sent.attempt == incoming.attempt
    });
    sent.map(|sent| sent.partition)
}

/// Slots by what they have in common.
#[derive(Default)]
struct Pieces(BTreeMap<(Option<String>, u32, u32), Vec<u32>>);

impl Pieces {
    fn add(&mut self, row: &SlotRow, from: u32, to: u32) {
        self.0.entry((row.attempt.clone(), from, to)).or_default().push(row.slot);
    }

    fn attempts(self) -> Vec<Attempt> {
        let attempt = |((id, from, to), mut slots): ((Option<String>, u32, u32), Vec<u32>)| {
            slots.sort_unstable();
            // A row without an attempt is none of a mover's; no step will find it.
            Attempt { id: id.unwrap_or_default(), group: Group { from, to, slots } }
        };
        self.0.into_iter().map(attempt).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: u32, slot: u32, state: State, attempt: &str, moved_to: Option<u32>) -> SlotRow {
        SlotRow { partition, slot, state, attempt: Some(attempt.to_owned()), epoch: 1, moved_to }
    }

    fn attempt(id: &str, from: u32, to: u32, slots: &[u32]) -> Attempt {
        Attempt { id: id.to_owned(), group: Group { from, to, slots: slots.to_vec() } }
    }

    #[test]
    fn what_was_handed_over_goes_forward_and_everything_else_back() {
        let rows = [
            row(0, 0, State::Moved, "a", Some(1)),
            row(1, 0, State::Incoming, "a", None),
            row(0, 1, State::Fenced, "b", None),
            row(1, 1, State::Incoming, "b", None),
            row(0, 2, State::Active, "b", None),
            row(1, 2, State::Incoming, "b", None),
            row(0, 3, State::Moved, "c", Some(1)),
            row(1, 3, State::Active, "c", None),
        ];
        let found = found(&rows, 4).unwrap();
        assert_eq!(found.owners, BTreeMap::from([(0, 1), (1, 0), (2, 0), (3, 1)]));
        assert_eq!(found.forward, [attempt("a", 0, 1, &[0])]);
        assert_eq!(found.undo, [attempt("b", 0, 0, &[1])]);
        assert_eq!(found.forget, [attempt("b", 1, 1, &[1, 2])]);
        assert_eq!(found.clean, [attempt("a", 0, 1, &[0]), attempt("c", 0, 1, &[3])]);
    }

    #[test]
    fn a_slot_on_its_way_back_is_not_cleaned_where_it_arrives() {
        // 0 -> 1 -> 0: the row that was left behind in 0 has become the one that is expected.
        let rows = [row(1, 0, State::Leaving, "b", None), row(0, 0, State::Incoming, "b", None)];
        let found = found(&rows, 1).unwrap();
        assert!(found.clean.is_empty() && found.undo.len() == 1 && found.forget.len() == 1);
    }

    #[test]
    fn nothing_is_moved_while_a_slot_has_two_owners_or_none() {
        let twice = [row(0, 0, State::Active, "a", None), row(1, 0, State::Active, "b", None)];
        assert_eq!(found(&twice, 1), Err(Disorder::Twice { slot: 0, one: 0, other: 1 }));
        let lost = [row(0, 0, State::Moved, "a", Some(1)), row(1, 0, State::Incoming, "b", None)];
        assert_eq!(found(&lost, 1), Err(Disorder::Missing { slot: 0 }));
        assert_eq!(found(&[], 1), Err(Disorder::Missing { slot: 0 }));
    }
}
