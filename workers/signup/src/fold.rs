//! A batch of sign-ups, brought into the form in which it is written: no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use shardlane_runtime::column::Column;
use shardlane_runtime::ksuid;
use shardlane_runtime::service::Accepted;

use crate::wire::Signup;

/// A request of a batch, once however often it is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The slot.
    pub slot: u32,
    /// Where it was asked last; outcomes of a key are published in this order.
    pub offset: i64,
    /// The name.
    pub username: String,
    /// The request.
    pub request_id: String,
}

/// A batch, ready to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct SignupPlan {
    /// What is asked for. Shared, because it is put into words after the rest was written and dropped.
    pub claims: Arc<Claims>,
    /// The accounts that the first claims open.
    pub accounts: Accounts,
}

/// The claims of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The first claim on each name: it wins, unless the name is taken already.
    pub first: Vec<Claim>,
    /// Every other claim: it has lost, unless it is a retry of the winner.
    pub later: Vec<Claim>,
}

impl Claims {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Claim> {
        self.first.iter().chain(&self.later)
    }
}

/// The names that were taken before a batch, with the requests that have them.
pub type Taken = HashMap<String, String>;

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The claims.
    pub claims: Arc<Claims>,
    /// Whether each of them has its name, in the order of [`Claims::all`].
    pub won: Vec<bool>,
}

impl Verdict {
    /// Every first claim has won.
    pub fn all_free(claims: &Arc<Claims>) -> Self {
        Self::of(claims, &Taken::new())
    }

    /// Who wins, where these names are taken.
    pub fn of(claims: &Arc<Claims>, taken: &Taken) -> Self {
        let owns = |claim: &Claim| taken.get(&claim.username).map(|owner| *owner == claim.request_id);
        let first = claims.first.iter().map(|claim| owns(claim).unwrap_or(true));
        let later = claims.later.iter().map(|claim| owns(claim).unwrap_or(false));
        let won = first.chain(later).collect();
        Self { claims: Arc::clone(claims), won }
    }

    /// Each claim, and whether it has its name.
    pub fn each(&self) -> impl Iterator<Item = (&Claim, bool)> {
        self.claims.all().zip(self.won.iter().copied())
    }

    /// The claims that have lost.
    pub fn lost(&self) -> Vec<&Claim> {
        self.each().filter(|(_, won)| !won).map(|(claim, _)| claim).collect()
    }

    /// In the order in which they are published: within a name, that of the log.
    pub fn in_order(&self) -> Vec<(&Claim, bool)> {
        let mut told: Vec<_> = self.each().collect();
        if !self.claims.later.is_empty() {
            told.sort_unstable_by_key(|(claim, _)| (claim.slot, claim.offset));
        }
        told
    }
}

/// Columns of accounts.
#[derive(Clone, Debug, PartialEq)]
pub struct Accounts {
    /// The slots.
    pub slots: Column,
    /// The offsets.
    pub offsets: Column,
    /// The names.
    pub usernames: Column,
    /// The ids that the accounts get.
    pub ids: Column,
    /// The requests.
    pub request_ids: Column,
}

impl Accounts {
    /// Those whose place is to be kept.
    pub fn pick(&self, keep: &[bool]) -> Self {
        let pick = |column: &Column| column.pick(|place| keep[place]);
        Self {
            slots: pick(&self.slots),
            offsets: pick(&self.offsets),
            usernames: pick(&self.usernames),
            ids: pick(&self.ids),
            request_ids: pick(&self.request_ids),
        }
    }

    fn of(claims: &[Claim], ids: Vec<String>) -> Self {
        Self {
            slots: Column::of(claims.iter().map(|claim| claim.slot.cast_signed()).collect()),
            offsets: Column::of(claims.iter().map(|claim| claim.offset).collect()),
            usernames: Column::of(claims.iter().map(|claim| &*claim.username).collect()),
            ids: Column::of(ids),
            request_ids: Column::of(claims.iter().map(|claim| &*claim.request_id).collect()),
        }
    }
}

/// Folds a batch. Requests of one name come in the order of the log, so the first here is the first there. The claims come in
/// the order of their names: Postgres then walks its index from left to right.
pub fn fold(space: u32, mut requests: Vec<Accepted<Signup>>) -> SignupPlan {
    // Stable, so that the order of the log stays within a name.
    requests.sort_by(|one, other| one.request.username.cmp(&other.request.username));
    let (mut claims, mut ids) = (Vec::<Claim>::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
    let mut others: Vec<Claim> = Vec::new();
    // Where the later claims on the name at hand are.
    let mut later: HashMap<String, usize> = HashMap::new();
    for Accepted { slot, offset, timestamp, request: Signup { request_id, username } } in requests {
        match claims.last_mut() {
            Some(first) if first.username == username => {
                if first.request_id == request_id {
                    first.offset = offset;
                } else if let Some(known) = later.get(&request_id) {
                    others[*known].offset = offset;
                } else {
                    later.insert(request_id.clone(), others.len());
                    others.push(Claim { slot, offset, username, request_id });
                }
            }
            _ => {
                later.clear();
                ids.push(ksuid::of_record(space, slot, offset, timestamp));
                claims.push(Claim { slot, offset, username, request_id });
            }
        }
    }
    let accounts = Accounts::of(&claims, ids);
    SignupPlan { claims: Arc::new(Claims { first: claims, later: others }), accounts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(requests: &[(&str, &str)]) -> SignupPlan {
        let accepted = requests.iter().enumerate().map(|(offset, (username, request_id))| Accepted {
            slot: 0,
            offset: i64::try_from(offset).unwrap(),
            timestamp: 1_700_000_000_000,
            request: Signup { request_id: (*request_id).to_owned(), username: (*username).to_owned() },
        });
        fold(1, accepted.collect())
    }

    fn names(claims: &[Claim]) -> Vec<(&str, &str, i64)> {
        claims.iter().map(|claim| (&*claim.username, &*claim.request_id, claim.offset)).collect()
    }

    #[test]
    fn the_first_claim_on_a_name_is_first() {
        let plan = batch(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(names(&plan.claims.first), [("a", "1", 0), ("b", "2", 1)]);
        assert_eq!(names(&plan.claims.later), [("a", "3", 2)]);
    }

    #[test]
    fn a_retry_within_a_batch_is_one_claim_answered_where_it_was_asked_last() {
        let plan = batch(&[("a", "1"), ("a", "2"), ("a", "1"), ("a", "2")]);
        assert_eq!(names(&plan.claims.first), [("a", "1", 2)]);
        assert_eq!(names(&plan.claims.later), [("a", "2", 3)]);
    }

    #[test]
    fn a_taken_name_is_refused_to_all_but_the_request_that_has_it() {
        let plan = batch(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("c", "5"), ("a", "0")]);
        let taken = Taken::from([("a".to_owned(), "3".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let verdict = Verdict::of(&plan.claims, &taken);
        let told: Vec<_> = verdict.in_order().iter().map(|(claim, won)| (&*claim.request_id, *won)).collect();
        assert_eq!(told, [("1", false), ("2", true), ("3", true), ("4", true), ("5", false), ("0", false)]);
        let lost: Vec<_> = verdict.lost().iter().map(|claim| &*claim.request_id).collect();
        assert_eq!(lost, ["1", "0", "5"]);
    }

    #[test]
    fn where_every_name_is_free_the_first_claims_win() {
        let plan = batch(&[("a", "1"), ("a", "2"), ("b", "3")]);
        assert_eq!(Verdict::all_free(&plan.claims).won, [true, true, false]);
    }

    #[test]
    fn one_id_on_two_names_is_two_claims() {
        let plan = batch(&[("a", "1"), ("b", "1")]);
        assert_eq!(names(&plan.claims.first), [("a", "1", 0), ("b", "1", 1)]);
    }
}
