//! Deciding, against a model that knows no batches.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shardlane_runtime::service::Accepted;

use super::*;
use crate::fold::fold;
use crate::wire::{Instruction, Text};

/// A shard, as far as deciding sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    posts: BTreeMap<String, (Known, Published)>,
    changes: BTreeMap<(String, String), Outcome>,
}

impl World {
    /// Applies a batch as the tables would. Gives what is published.
    fn apply(&mut self, batch: &[Accepted<Instruction>]) -> Vec<Published> {
        let plan = fold(batch.to_vec());
        let posts = plan.posts.iter().map(|post| self.posts.get(&post.slug).map(|(known, _)| known.clone())).collect();
        let id = |at: usize| (plan.posts[plan.steps[at].post].slug.clone(), plan.steps[at].request_id.clone());
        let known = plan.changes.iter().filter_map(|at| Some((*at, *self.changes.get(&id(*at))?)));
        let decision = decide(&plan, Before { posts, changes: known.collect() });
        let mut told = Vec::new();
        for written in &decision.written {
            let published = written.published(&plan);
            self.posts.insert(published.slug.clone(), (written.known(), published.clone()));
            told.push(published);
        }
        told.extend(decision.again.iter().map(|post| self.posts[&plan.posts[*post].slug].1.clone()));
        for (at, outcome) in decision.changes {
            let before = self.changes.insert(id(at), outcome);
            assert!(before.is_none_or(|before| before == outcome), "an outcome has changed");
        }
        told
    }
}

fn instructions() -> impl Strategy<Value = Vec<Accepted<Instruction>>> {
    let text = "[ab]".prop_map(|title| Text { content: format!("<{title}>"), title });
    let what = prop_oneof![
        2 => text.clone().prop_map(What::Publish),
        3 => (text, 1_i64..5).prop_map(|(text, expect)| What::Edit { text, expect }),
        1 => (1_i64..5).prop_map(|expect| What::Delete { expect }),
    ];
    let instruction = ("[xyz]", "[1-4]", what);
    proptest::collection::vec(instruction, 1..40).prop_map(|asked| {
        let accepted = |(offset, (slug, request_id, what)): (usize, (String, String, What))| Accepted {
            slot: 0,
            offset: i64::try_from(offset).unwrap(),
            timestamp: 1_000 + i64::try_from(offset).unwrap(),
            request: Instruction { slug, request_id, what },
        };
        asked.into_iter().enumerate().map(accepted).collect()
    })
}

proptest! {
    #[test]
    fn batches_decide_as_one_after_the_other(all in instructions(), cuts in proptest::collection::vec(1_usize..9, 1..9)) {
        let mut one_by_one = World::default();
        for accepted in &all {
            one_by_one.apply(std::slice::from_ref(accepted));
        }
        let (mut batched, mut rest, mut cuts) = (World::default(), &all[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            batched.apply(batch);
            rest = after;
        }
        prop_assert_eq!(batched, one_by_one);
    }

    #[test]
    fn asking_again_changes_nothing_and_tells_the_state_of_now(all in instructions(), cut in 1_usize..9) {
        let mut world = World::default();
        for batch in all.chunks(cut) {
            for told in world.apply(batch) {
                // Never an old state, whatever is asked for again.
                prop_assert_eq!(&world.posts[&told.slug].1, &told);
            }
        }
        let before = world.clone();
        for batch in all.chunks(cut) {
            world.apply(batch);
        }
        prop_assert_eq!(world, before);
    }

    #[test]
    fn the_first_request_has_the_slug_and_versions_count_what_was_done(all in instructions()) {
        let mut world = World::default();
        let mut firsts: BTreeMap<String, String> = BTreeMap::new();
        for accepted in &all {
            world.apply(std::slice::from_ref(accepted));
            if matches!(accepted.request.what, What::Publish(_)) {
                firsts.entry(accepted.request.slug.clone()).or_insert(accepted.request.request_id.clone());
            }
        }
        for (slug, (known, published)) in &world.posts {
            prop_assert_eq!(&known.request_id, &firsts[slug]);
            let of_slug = world.changes.iter().filter(|((changed, _), outcome)| changed == slug && outcome.refused.is_none());
            prop_assert_eq!(known.version, 1 + i64::try_from(of_slug.count()).unwrap());
            prop_assert_eq!(known.deleted, published.deleted);
            prop_assert_eq!(published.post.is_none(), published.deleted);
        }
        for ((slug, _), outcome) in &world.changes {
            prop_assert!(outcome.refused.is_some() || world.posts[slug].0.version >= outcome.version);
        }
    }
}

fn one(slug: &str, request_id: &str, timestamp: i64, what: What) -> Accepted<Instruction> {
    let request = Instruction { slug: slug.to_owned(), request_id: request_id.to_owned(), what };
    Accepted { slot: 0, offset: timestamp, timestamp, request }
}

fn text(title: &str) -> Text {
    Text { title: title.to_owned(), content: String::new() }
}

#[test]
fn a_post_is_published_edited_and_deleted() {
    let mut world = World::default();
    let edit = |title, expect| What::Edit { text: text(title), expect };
    let told = world.apply(&[
        one("x", "1", 10, What::Publish(text("a"))),
        one("x", "2", 11, What::Publish(text("b"))),
        one("x", "3", 12, edit("c", 1)),
        one("x", "4", 13, edit("d", 1)),
    ]);
    let post = Post { text: text("c"), published_at: 10, edited_at: Some(12) };
    assert_eq!(told, [Published { slug: "x".to_owned(), version: 2, post: Some(post), deleted: false }]);
    let outcome = |id: &str, world: &World| world.changes[&("x".to_owned(), id.to_owned())];
    assert_eq!(outcome("3", &world), Outcome { version: 2, refused: None });
    assert_eq!(outcome("4", &world), Outcome { version: 2, refused: Some(Reason::OtherVersion) });

    let told = world.apply(&[one("x", "5", 14, What::Delete { expect: 2 }), one("x", "6", 15, edit("e", 3))]);
    assert_eq!(told, [Published { slug: "x".to_owned(), version: 3, post: None, deleted: true }]);
    assert_eq!(outcome("6", &world).refused, Some(Reason::Deleted));
    // Neither the request that made it nor another one brings it back.
    let told = world.apply(&[one("x", "1", 16, What::Publish(text("a"))), one("x", "7", 17, What::Publish(text("a")))]);
    assert_eq!(told, [Published { slug: "x".to_owned(), version: 3, post: None, deleted: true }]);
    world.apply(&[one("y", "1", 18, edit("a", 1))]);
    let nobody = world.changes[&("y".to_owned(), "1".to_owned())];
    assert_eq!(nobody, Outcome { version: 0, refused: Some(Reason::NoPost) });
}
