//! Which usernames are one and the same, and which are none.

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use serde::{Deserialize, Serialize};

/// Rules of a service, fixed at its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UsernameRules {
    /// Which spellings are one name.
    pub canonical_form: CanonicalForm,
    /// Fewest characters (Unicode scalar values) of a name.
    pub min_length: usize,
    /// Most characters of a name.
    pub max_length: usize,
}

impl Default for UsernameRules {
    fn default() -> Self {
        Self { canonical_form: CanonicalForm::default(), min_length: 1, max_length: 40 }
    }
}

/// Which spellings are one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CanonicalForm {
    /// Unicode's `NFKC_Casefold`: `Alice`, `ALICE` and `Ａlice` are one name.
    #[default]
    NfkcCasefold,
    /// Names are one only if their bytes are.
    Exact,
}

/// Why something is no username; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUsername {
    /// Too short or too long.
    #[error("a username has {min} to {max} characters; this has {found}")]
    Length {
        /// Fewest.
        min: usize,
        /// Most.
        max: usize,
        /// What it has.
        found: usize,
    },
    /// A character that no name may have.
    #[error("a username has no control characters and none that Unicode has not assigned; this has U+{0:04X}")]
    Character(u32),
}

impl UsernameRules {
    /// The canonical form of a name, or why it is none.
    pub fn canonical(&self, name: &str) -> Result<String, BadUsername> {
        let canonical = match self.canonical_form {
            CanonicalForm::Exact => name.to_owned(),
            // What the folding below comes to, without its tables.
            CanonicalForm::NfkcCasefold if name.is_ascii() => name.to_ascii_lowercase(),
            CanonicalForm::NfkcCasefold => nfkc_casefold(name),
        };
        let found = if canonical.is_ascii() { canonical.len() } else { canonical.chars().count() };
        if found < self.min_length || found > self.max_length {
            return Err(BadUsername::Length { min: self.min_length, max: self.max_length, found });
        }
        if canonical.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Ok(canonical);
        }
        // The canonical form of an unassigned character may change with the version of Unicode that assigns it, and
        // then one name would lie in two places.
        let categories = CodePointMapData::<GeneralCategory>::new();
        let barred = |c: &char| matches!(categories.get(*c), GeneralCategory::Control | GeneralCategory::Unassigned);
        match canonical.chars().find(barred) {
            Some(c) => Err(BadUsername::Character(u32::from(c))),
            None => Ok(canonical),
        }
    }
}

/// `toNFKC_Casefold` (Unicode Standard, section 3.13, R5, with D147's steps): fold, drop what is ignorable, compose,
/// until nothing changes; twice is enough.
fn nfkc_casefold(name: &str) -> String {
    let normalizer = ComposingNormalizerBorrowed::new_nfkc();
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let once = |text: &str| -> String {
        let folded = CaseMapper::new().fold_string(&normalizer.normalize(text)).into_owned();
        let kept: String = folded.chars().filter(|c| !ignorable.contains(*c)).collect();
        normalizer.normalize(&kept).into_owned()
    };
    once(&once(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folding() -> UsernameRules {
        UsernameRules::default()
    }

    #[test]
    fn spellings_of_one_name_are_one() {
        for (one, other) in [
            ("Alice", "alice"),
            ("ＡＬＩＣＥ", "alice"),
            ("Straße", "STRASSE"),
            ("e\u{301}lan", "ÉLAN"),
            ("a\u{ad}b", "ab"),
            ("ﬁn", "FIN"),
        ] {
            assert_eq!(folding().canonical(one), folding().canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn exact_keeps_every_spelling() {
        let exact = UsernameRules { canonical_form: CanonicalForm::Exact, ..folding() };
        assert_eq!(exact.canonical("Alice"), Ok("Alice".to_owned()));
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_to_do() {
        assert!(folding().canonical("").unwrap_err().to_string().contains("1 to 40"));
        assert!(folding().canonical(&"x".repeat(41)).unwrap_err().to_string().contains("this has 41"));
        for bad in ["a\0b", "tab\t", "\u{378}"] {
            assert!(matches!(folding().canonical(bad), Err(BadUsername::Character(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_form_is_its_own(name in "\\PC{0,30}") {
            if let Ok(once) = folding().canonical(&name) {
                prop_assert_eq!(folding().canonical(&once), Ok(once));
            }
        }
    }

    #[test]
    fn ascii_is_folded_as_unicode_says() {
        let rules = UsernameRules::default();
        for byte in 0..=0x7f_u8 {
            let name = char::from(byte).to_string();
            match rules.canonical(&name) {
                Ok(canonical) => assert_eq!(canonical, nfkc_casefold(&name)),
                Err(error) => assert!(char::from(byte).is_control(), "{error}"),
            }
        }
    }
}
