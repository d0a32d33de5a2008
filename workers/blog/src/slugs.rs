//! How a post gets its slug: once, where it is received.

use rand::RngExt;
use sha2::{Digest, Sha256};

/// Most bytes of a slug that come from the title.
const WORDS: usize = 80;
/// Letters that make slugs of one title and one millisecond differ.
const LETTERS: usize = 6;
/// Characters of a slug that stand for a key.
const KEY: usize = 20;
const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A slug that no other post has: the title, the time in milliseconds since 1970, and a few letters, for another gateway may
/// receive a post of this title in the same millisecond.
pub fn fresh(title: &str, now_ms: i64) -> String {
    let mut random = rand::rng();
    let letters: String = (0..LETTERS).map(|_| letter(random.random_range(0..ALPHABET.len()))).collect();
    format!("{}-{now_ms}-{letters}", words(title))
}

/// The slug of a post whose client has named a key for its retries: the same for the same title and key.
pub fn of_key(title: &str, key: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(title);
    hasher.update([0]);
    hasher.update(key);
    let digest = hasher.finalize();
    let letters: String = digest.iter().take(KEY).map(|byte| letter(usize::from(*byte) % ALPHABET.len())).collect();
    format!("{}-{letters}", words(title))
}

fn letter(at: usize) -> char {
    char::from(ALPHABET[at])
}

/// What a path can show of a title.
fn words(title: &str) -> String {
    let mut words = slug::slugify(title);
    // Nothing but a-z, 0-9 and -, so every place is the end of a character.
    words.truncate(WORDS);
    words.truncate(words.trim_end_matches('-').len());
    if words.is_empty() { "post".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::check_slug;

    #[test]
    fn a_slug_shows_the_title_and_the_time() {
        let slug = fresh("Hello, Wörld!", 1_700_000_000_000);
        assert!(slug.starts_with("hello-world-1700000000000-"), "{slug}");
        assert_ne!(slug, fresh("Hello, Wörld!", 1_700_000_000_000));
        assert!(fresh("!?", 1).starts_with("post-1-"));
    }

    #[test]
    fn a_key_and_a_title_have_one_slug() {
        assert_eq!(of_key("A", "1"), of_key("A", "1"));
        assert_ne!(of_key("A", "1"), of_key("A", "2"));
        assert_ne!(of_key("a", "1"), of_key("A", "1"));
    }

    proptest! {
        #[test]
        fn every_title_has_a_slug(title in "\\PC{1,200}", now in 0_i64.., key in "\\PC{1,128}") {
            prop_assert_eq!(check_slug(&fresh(&title, now)), Ok(()));
            prop_assert_eq!(check_slug(&of_key(&title, &key)), Ok(()));
        }
    }
}
