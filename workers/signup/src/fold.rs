//! A batch of sign-ups, brought into the form in which it is written: no I/O.

use std::collections::HashMap;

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
    /// The id that the account gets if the claim wins.
    pub id: String,
    /// The name.
    pub username: String,
    /// The request.
    pub request_id: String,
}

/// A batch, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignupPlan {
    /// The first claim on each name: it wins, unless the name is taken already.
    pub first: Vec<Claim>,
    /// Every other claim: it has lost, unless it is a retry of the winner.
    pub later: Vec<Claim>,
}

/// Folds a batch. Requests of one name come in the order of the log, so the first here is the first there. The claims come in
/// the order of their names: Postgres then walks its index from left to right.
pub fn fold(space: u32, mut requests: Vec<Accepted<Signup>>) -> SignupPlan {
    // Stable, so that the order of the log stays within a name.
    requests.sort_by(|one, other| one.request.username.cmp(&other.request.username));
    let mut plan = SignupPlan { first: Vec::with_capacity(requests.len()), later: Vec::new() };
    // Where the later claims on the name at hand are.
    let mut later: HashMap<String, usize> = HashMap::new();
    for Accepted { slot, offset, timestamp, request: Signup { request_id, username } } in requests {
        match plan.first.last_mut() {
            Some(first) if first.username == username => {
                if first.request_id == request_id {
                    first.offset = offset;
                } else if let Some(known) = later.get(&request_id) {
                    plan.later[*known].offset = offset;
                } else {
                    later.insert(request_id.clone(), plan.later.len());
                    // A later claim makes no account, so it needs no id.
                    plan.later.push(Claim { slot, offset, id: String::new(), username, request_id });
                }
            }
            _ => {
                later.clear();
                let id = ksuid::of_record(space, slot, offset, timestamp);
                plan.first.push(Claim { slot, offset, id, username, request_id });
            }
        }
    }
    plan
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
