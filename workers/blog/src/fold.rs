//! A batch of instructions, brought into the form in which it is decided and written: no I/O.

use std::collections::HashMap;

use shardlane_runtime::column::Column;
use shardlane_runtime::service::Accepted;

use crate::wire::{Instruction, What};

/// A batch.
#[derive(Debug, PartialEq)]
pub struct BlogPlan {
    /// The instructions. Those of one post come in the order of the log.
    pub steps: Vec<Step>,
    /// The posts that they are for, once each, in order: Postgres then walks its index from left to right.
    pub posts: Vec<PostKey>,
    /// Their slugs.
    pub slugs: Column,
    /// The edits and deletions, once each however often they are in the batch, as places in `steps`.
    pub changes: Vec<usize>,
}

/// A post of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostKey {
    /// The slot.
    pub slot: u32,
    /// The slug.
    pub slug: String,
}

/// An instruction, and where its record lies.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The record's offset in its slot.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970.
    pub timestamp: i64,
    /// Its post's place in the plan.
    pub post: usize,
    /// The request.
    pub request_id: String,
    /// A number by which what it asks for is known again.
    pub digest: i64,
    /// What is to be done.
    pub what: What,
}

/// Folds a batch.
pub fn fold(batch: Vec<Accepted<Instruction>>) -> BlogPlan {
    let (posts, places) = posts(&batch);
    let steps: Vec<Step> = batch
        .into_iter()
        .zip(places)
        .map(|(Accepted { offset, timestamp, request: Instruction { request_id, what, .. }, .. }, post)| Step {
            offset,
            timestamp,
            post,
            request_id,
            digest: what.digest(),
            what,
        })
        .collect();
    let mut seen: HashMap<(usize, &str), usize> = HashMap::new();
    for (at, step) in steps.iter().enumerate().filter(|(_, step)| !matches!(step.what, What::Publish(_))) {
        seen.entry((step.post, &step.request_id)).or_insert(at);
    }
    let mut changes: Vec<usize> = seen.into_values().collect();
    changes.sort_unstable();
    let slugs = Column::of(posts.iter().map(|post| &*post.slug).collect());
    BlogPlan { steps, posts, slugs, changes }
}

/// The posts of a batch in order, and for each instruction where its post is among them.
fn posts(batch: &[Accepted<Instruction>]) -> (Vec<PostKey>, Vec<usize>) {
    let mut keys: Vec<(&str, u32)> = batch.iter().map(|accepted| (&*accepted.request.slug, accepted.slot)).collect();
    keys.sort_unstable();
    keys.dedup_by_key(|(slug, _)| *slug);
    let place = |accepted: &Accepted<Instruction>| keys.partition_point(|(slug, _)| *slug < &*accepted.request.slug);
    let places = batch.iter().map(place).collect();
    (keys.into_iter().map(|(slug, slot)| PostKey { slot, slug: slug.to_owned() }).collect(), places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_come_once_and_in_order_and_so_do_changes() {
        let step = |offset, slug: &str, request_id: &str, what| Accepted {
            slot: 3,
            offset,
            timestamp: 9,
            request: Instruction { slug: slug.to_owned(), request_id: request_id.to_owned(), what },
        };
        let delete = || What::Delete { expect: 1 };
        let plan = fold(vec![
            step(1, "b", "r", delete()),
            step(2, "a", "r", delete()),
            step(3, "b", "s", delete()),
            step(4, "b", "r", delete()),
        ]);
        let slugs: Vec<_> = plan.posts.iter().map(|post| &*post.slug).collect();
        assert_eq!(slugs, ["a", "b"]);
        assert_eq!(plan.steps.iter().map(|step| step.post).collect::<Vec<_>>(), [1, 0, 1, 1]);
        assert_eq!(plan.changes, [0, 1, 2]);
    }
}
