//! The highest version that was seen of each slug, of as many as fit.

use std::collections::HashMap;

/// Versions of the slugs that were seen last. Redis knows them too, unless it has lost them.
#[derive(Debug)]
pub struct Highest {
    most: usize,
    /// What was seen lately, and what was seen before that: when the one is full, it takes the place of the other.
    lately: HashMap<String, i64>,
    before: HashMap<String, i64>,
}

impl Highest {
    /// Of this many slugs at least, and of twice as many at most.
    pub fn of(most: usize) -> Self {
        Self { most, lately: HashMap::new(), before: HashMap::new() }
    }

    /// Whether no higher version than this one was seen; from now on it was.
    pub fn is(&mut self, slug: &str, version: i64) -> bool {
        let seen = self.lately.get(slug).or_else(|| self.before.get(slug)).copied().unwrap_or(0);
        if self.lately.len() >= self.most && !self.lately.contains_key(slug) {
            self.before = std::mem::take(&mut self.lately);
        }
        self.lately.insert(slug.to_owned(), seen.max(version));
        version >= seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_version_is_known_whatever_came_between() {
        let mut highest = Highest::of(10);
        assert!(highest.is("a", 1) && highest.is("a", 3) && highest.is("a", 3));
        for n in 0..9 {
            assert!(highest.is(&format!("b{n}"), 1));
        }
        assert!(!highest.is("a", 2), "it was seen among the last ten");
        for n in 0..100 {
            highest.is(&format!("c{n}"), 1);
        }
        assert!(highest.lately.len() <= 10 && highest.before.len() <= 10);
        assert!(highest.is("a", 2), "it is forgotten");
    }
}
