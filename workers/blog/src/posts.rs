//! What becomes of posts: no I/O, no clock.
//!
//! A slug belongs to the request that used it first, for ever. A change is made once, and only of the version that it names. What
//! was deleted stays so: its row remains, without its text, because whoever follows the published posts needs its version.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fold::{BlogPlan, Step};
use crate::wire::{Post, Published, What};

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no such post.
    NoPost,
    /// It was deleted.
    Deleted,
    /// It has another version than the change was made for.
    OtherVersion,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NoPost, Self::Deleted, Self::OtherVersion];

    /// As programs read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPost => "no_post",
            Self::Deleted => "deleted",
            Self::OtherVersion => "other_version",
        }
    }

    /// As people read it.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoPost => "there is no such post",
            Self::Deleted => "the post was deleted",
            Self::OtherVersion => "somebody else has changed the post meanwhile; read it and decide anew",
        }
    }
}

/// What a shard holds of a post, as far as it matters for deciding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The version.
    pub version: i64,
    /// The request that made it.
    pub request_id: String,
    /// When it was published, in milliseconds since 1970.
    pub published_at: i64,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The version that it made, or that was there when it was refused: 0 for none.
    pub version: i64,
    /// Why it was refused.
    pub refused: Option<Reason>,
}

/// What the shard holds before a batch.
#[derive(Debug, Default)]
pub struct Before {
    /// The posts, by their places in the plan.
    pub posts: Vec<Option<Known>>,
    /// What became of changes that are known, by their places in the plan's steps.
    pub changes: HashMap<usize, Outcome>,
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Posts as the batch leaves them, in order.
    pub written: Vec<Written>,
    /// Posts that the batch leaves as they are and that somebody has asked for again, by their places in the plan.
    pub again: Vec<usize>,
    /// Changes, once each: new ones, and known ones that somebody has asked for again.
    pub changes: Vec<(usize, Outcome)>,
}

/// A post as a batch leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its place in the plan.
    pub post: usize,
    /// Its version.
    pub version: i64,
    /// The request that made it.
    pub request_id: String,
    /// When it was published, in milliseconds since 1970.
    pub published_at: i64,
    /// When it was changed last, in milliseconds since 1970.
    pub edited_at: Option<i64>,
    /// The step that gave it its text; a post that was deleted has none.
    pub text: Option<usize>,
}

/// What one instruction does to a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It has this version now.
    Made(i64),
    /// Nothing: it was done before.
    Again,
    /// Nothing: it belongs to another request.
    Taken,
    /// Nothing, and why.
    Refused(Reason),
}

fn judge(post: Option<&Known>, request_id: &str, what: &What) -> Verdict {
    let expect = match (post, what) {
        (None, What::Publish(_)) => return Verdict::Made(1),
        (Some(post), What::Publish(_)) if post.request_id == request_id => return Verdict::Again,
        (Some(_), What::Publish(_)) => return Verdict::Taken,
        (_, What::Edit { expect, .. } | What::Delete { expect }) => *expect,
    };
    match post {
        None => Verdict::Refused(Reason::NoPost),
        Some(post) if post.deleted => Verdict::Refused(Reason::Deleted),
        Some(post) if post.version != expect => Verdict::Refused(Reason::OtherVersion),
        Some(post) => Verdict::Made(post.version + 1),
    }
}

/// Decides a batch.
pub fn decide(plan: &BlogPlan, before: Before) -> Decision {
    let Before { mut posts, changes: known } = before;
    posts.resize(plan.posts.len(), None);
    // By post and request, for the same one may come several times in a batch.
    let mut changes: HashMap<(usize, &str), (usize, Outcome)> = HashMap::new();
    for (at, outcome) in known {
        let step = &plan.steps[at];
        changes.insert((step.post, &step.request_id), (at, outcome));
    }
    let mut written: Vec<Option<Written>> = vec![None; plan.posts.len()];
    let mut again = vec![false; plan.posts.len()];
    for (at, step) in plan.steps.iter().enumerate() {
        let publishes = matches!(step.what, What::Publish(_));
        if !publishes && changes.contains_key(&(step.post, &*step.request_id)) {
            again[step.post] = true;
            continue;
        }
        let post = posts[step.post].as_ref();
        let verdict = judge(post, &step.request_id, &step.what);
        let version = match verdict {
            Verdict::Made(version) => {
                let made = made(at, step, version, post);
                posts[step.post] = Some(made.known());
                written[step.post] = Some(made);
                version
            }
            Verdict::Again => {
                again[step.post] = true;
                continue;
            }
            Verdict::Taken => continue,
            Verdict::Refused(_) => post.map_or(0, |post| post.version),
        };
        if !publishes {
            let refused = if let Verdict::Refused(reason) = verdict { Some(reason) } else { None };
            changes.insert((step.post, &step.request_id), (at, Outcome { version, refused }));
        }
    }
    let again = (0..plan.posts.len()).filter(|post| again[*post] && written[*post].is_none() && posts[*post].is_some());
    let again = again.collect();
    let mut changes: Vec<_> = changes.into_values().collect();
    changes.sort_unstable_by_key(|(at, _)| *at);
    Decision { written: written.into_iter().flatten().collect(), again, changes }
}

fn made(at: usize, step: &Step, version: i64, post: Option<&Known>) -> Written {
    // A record without a time is as old as can be.
    let now = step.timestamp.max(0);
    Written {
        post: step.post,
        version,
        request_id: post.map_or_else(|| step.request_id.clone(), |post| post.request_id.clone()),
        published_at: post.map_or(now, |post| post.published_at),
        edited_at: post.map(|_| now),
        text: (!matches!(step.what, What::Delete { .. })).then_some(at),
    }
}

impl Written {
    fn known(&self) -> Known {
        Known {
            version: self.version,
            request_id: self.request_id.clone(),
            published_at: self.published_at,
            deleted: self.text.is_none(),
        }
    }

    /// As it is published.
    pub fn published(&self, plan: &BlogPlan) -> Published {
        let text = self.text.and_then(|at| match &plan.steps[at].what {
            What::Publish(text) | What::Edit { text, .. } => Some(text.clone()),
            What::Delete { .. } => None,
        });
        Published {
            slug: plan.posts[self.post].slug.clone(),
            version: self.version,
            deleted: text.is_none(),
            post: text.map(|text| Post { text, published_at: self.published_at, edited_at: self.edited_at }),
        }
    }
}

#[cfg(test)]
#[path = "posts_tests.rs"]
mod tests;
