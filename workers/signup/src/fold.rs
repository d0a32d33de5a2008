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
    /// The first claim on each name: it wins, unless the name is taken already.
    pub first: Arc<Vec<Claim>>,
    /// The accounts that these open.
    pub accounts: Accounts,
    /// Every other claim: it has lost, unless it is a retry of the winner.
    pub later: Vec<Claim>,
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
    SignupPlan { first: Arc::new(claims), accounts, later: others }
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
        assert_eq!(names(&plan.first), [("a", "1", 0), ("b", "2", 1)]);
        assert_eq!(names(&plan.later), [("a", "3", 2)]);
    }

    #[test]
    fn a_retry_within_a_batch_is_one_claim_answered_where_it_was_asked_last() {
        let plan = batch(&[("a", "1"), ("a", "2"), ("a", "1"), ("a", "2")]);
        assert_eq!(names(&plan.first), [("a", "1", 2)]);
        assert_eq!(names(&plan.later), [("a", "2", 3)]);
    }

    #[test]
    fn one_id_on_two_names_is_two_claims() {
        let plan = batch(&[("a", "1"), ("b", "1")]);
        assert_eq!(names(&plan.first), [("a", "1", 0), ("b", "1", 1)]);
    }
}
