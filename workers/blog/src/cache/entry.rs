//! What an entry of the cache looks like. Whatever else is found there is none.
//!
//! A key `post:<slug>` holds a hash of `version` and `entry`; an entry is the number of its schema, a digest and JSON. The digest is over key,
//! version, schema and JSON, so that an entry which was cut, changed, or copied to another key is known. It is no seal: who may write
//! into the cache can forge one.

use std::time::Duration;

use axum::body::Bytes;
use sha1::{Digest, Sha1};

use crate::wire::Published;

/// Rises whenever what is in an entry changes in a way that other versions of the program would not understand, or would
/// misunderstand. Each version takes the entries of its own schema only.
pub const SCHEMA: u32 = 1;
/// How long an entry is kept, about: a late record that nobody could compare with anything is believed no longer than this.
const KEPT: Duration = Duration::from_secs(3_600);
/// How long it is remembered that there is no such post. Short, because it may be on its way.
const KEPT_ABSENT: Duration = Duration::from_secs(2);

/// What is known of a slug: a post, one that was deleted, or that there is none.
pub type State = Option<Published>;

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The version; 0 of a post that is not there, so that every other entry is newer.
    pub version: i64,
    /// The entry itself.
    pub entry: String,
    /// How long it is kept, about.
    pub kept: Duration,
}

/// The key of a slug.
pub fn key(slug: &str) -> String {
    format!("post:{slug}")
}

/// The entry for what is known of a slug.
pub fn encode(slug: &str, state: &State) -> serde_json::Result<Entry> {
    let (key, version) = (key(slug), state.as_ref().map_or(0, |post| post.version));
    let body = serde_json::to_string(state)?;
    let entry = format!("{SCHEMA} {} {body}", digest(&key, &version.to_string(), &SCHEMA.to_string(), &body));
    let kept = if state.is_some() { KEPT } else { KEPT_ABSENT };
    Ok(Entry { key, version, entry, kept })
}

/// What an entry says. `None`: it is none of ours.
pub fn decode(slug: &str, version: &str, entry: &str) -> Option<State> {
    let (schema, rest) = entry.split_once(' ')?;
    let (found, body) = rest.split_once(' ')?;
    if schema != SCHEMA.to_string() || found != digest(&key(slug), version, schema, body) {
        return None;
    }
    let state: State = serde_json::from_str(body).ok()?;
    let known = state.as_ref().map_or(("0".to_owned(), slug), |post| (post.version.to_string(), &*post.slug));
    (known == (version.to_owned(), slug)).then_some(state)
}

/// SHA-1, because Redis' scripts know no other digest; nobody is kept from forging by it.
fn digest(key: &str, version: &str, schema: &str, body: &str) -> String {
    let mut hasher = Sha1::new();
    for (place, part) in [key, version, schema, body].into_iter().enumerate() {
        if place > 0 {
            hasher.update(" ");
        }
        hasher.update(part);
    }
    // As Redis writes it.
    format!("{:x}", Bytes::copy_from_slice(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Post, Text};

    fn states() -> impl Strategy<Value = State> {
        let post = ("\\PC{1,9}", ".{0,30}", 0_i64.., proptest::option::of(0_i64..)).prop_map(
            |(title, content, published_at, edited_at)| Post { text: Text { title, content }, published_at, edited_at },
        );
        let published = (1_i64.., proptest::option::of(post)).prop_map(|(version, post)| Published {
            slug: "a-1".to_owned(),
            version,
            deleted: post.is_none(),
            post,
        });
        proptest::option::of(published)
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(state in states()) {
            let entry = encode("a-1", &state).unwrap();
            prop_assert_eq!(decode("a-1", &entry.version.to_string(), &entry.entry), Some(state));
        }

        #[test]
        fn what_was_cut_or_changed_or_moved_is_none(state in states(), cut in 1_usize..30, at: prop::sample::Index) {
            let Entry { version, entry, .. } = encode("a-1", &state).unwrap();
            let version = version.to_string();
            prop_assert_eq!(decode("a-2", &version, &entry), None);
            prop_assert_eq!(decode("a-1", "99", &entry), None);
            let shorter: String = entry.chars().take(entry.chars().count() - cut).collect();
            prop_assert_eq!(decode("a-1", &version, &shorter), None);
            let mut bytes = entry.into_bytes();
            let place = at.index(bytes.len());
            bytes[place] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert_eq!(decode("a-1", &version, &changed), None);
            }
        }

        #[test]
        fn anything_at_all_is_none(version in "\\PC{0,5}", entry in ".{0,60}") {
            prop_assert_eq!(decode("a-1", &version, &entry), None);
        }
    }

    #[test]
    fn an_entry_of_another_schema_is_none() {
        let body = serde_json::to_string(&State::None).unwrap();
        let other = format!("2 {} {body}", digest("post:a-1", "0", "2", &body));
        assert_eq!(decode("a-1", "0", &other), None);
    }
}
