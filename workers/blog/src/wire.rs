//! The records of a blog: what is asked for, and posts as they are published.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shardlane_runtime::record::{Record, check_request_id};
use shardlane_runtime::service::Rejection;

/// Most characters (Unicode scalar values) of a title.
pub const MAX_TITLE: usize = 200;
/// Largest content, in bytes of UTF-8.
pub const MAX_CONTENT: usize = 100_000;
/// Longest slug, in bytes.
pub const MAX_SLUG: usize = 128;

/// What is asked for, as it lies in the topic of new posts. With `expect` it changes a post, with `delete` it takes one away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRecord<'a> {
    /// The post: the record's key.
    #[serde(borrow)]
    pub slug: Cow<'a, str>,
    /// Chosen by whoever asks; the same for every retry.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The title; absent if the post is to be deleted.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Cow<'a, str>>,
    /// The content, plain text; absent if the post is to be deleted.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Cow<'a, str>>,
    /// The version that is changed or deleted; absent for a new post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<i64>,
    /// Whether the post is to be deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete: bool,
}

/// Something that was asked for and understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The post.
    pub slug: String,
    /// The request.
    pub request_id: String,
    /// What is to be done.
    pub what: What,
}

/// What is to be done with a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Publish(Text),
    /// It gets another text.
    Edit {
        /// The text.
        text: Text,
        /// The version that it replaces.
        expect: i64,
    },
    /// It is taken away.
    Delete {
        /// The version that is taken away.
        expect: i64,
    },
}

/// What people read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The title.
    pub title: String,
    /// The content, plain text.
    pub content: String,
}

/// A post as it is published: always as it is then, never as it once was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Flat")]
pub struct Published {
    /// The post: the record's key.
    pub slug: String,
    /// Rises by one with every change, from 1.
    pub version: i64,
    /// What there is to read; absent if it was deleted.
    #[serde(flatten)]
    pub post: Option<Post>,
    /// Whether it was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// The same, as it is read: every hot read does that, and flattened structures are read by way of a map.
#[derive(Deserialize)]
struct Flat {
    slug: String,
    version: i64,
    title: Option<String>,
    content: Option<String>,
    published_at: Option<i64>,
    edited_at: Option<i64>,
    #[serde(default)]
    deleted: bool,
}

impl From<Flat> for Published {
    fn from(flat: Flat) -> Self {
        let Flat { slug, version, title, content, published_at, edited_at, deleted } = flat;
        let post = match (title, content, published_at) {
            (Some(title), Some(content), Some(published_at)) => {
                Some(Post { text: Text { title, content }, published_at, edited_at })
            }
            _ => None,
        };
        Self { slug, version, post, deleted }
    }
}

/// A post that can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Post {
    /// What people read.
    #[serde(flatten)]
    pub text: Text,
    /// When it was published, in milliseconds since 1970.
    pub published_at: i64,
    /// When it was changed last, in milliseconds since 1970; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<i64>,
}

/// Understands a record of the topic of new posts.
pub fn parse(record: &Record<'_>) -> Result<Instruction, Rejection> {
    let value = record.value.ok_or_else(|| Rejection::new("empty", "the record has no value"))?;
    let asked: PostRecord<'_> = serde_json::from_slice(value).map_err(|error| {
        let wanted = r#"{"slug": "...", "request_id": "...", "title": "...", "content": "..."}"#;
        Rejection::new("malformed", format!("not {wanted}: {error}"))
    })?;
    check_request_id(&asked.request_id).map_err(|reason| Rejection::new("request_id", reason))?;
    check_slug(&asked.slug).map_err(|reason| Rejection::new("slug", reason))?;
    if record.key != Some(asked.slug.as_bytes()) {
        return Err(Rejection::new("other_key", format!("the key must be the slug, {:?}", asked.slug)));
    }
    let what = understand(&asked)?;
    Ok(Instruction { slug: asked.slug.into_owned(), request_id: asked.request_id.into_owned(), what })
}

fn understand(asked: &PostRecord<'_>) -> Result<What, Rejection> {
    if asked.expect.is_some_and(|expect| expect < 1) {
        return Err(Rejection::new("expect", "expect is the version of a post: 1 or more"));
    }
    match (&asked.title, &asked.content, asked.expect, asked.delete) {
        (None, None, Some(expect), true) => Ok(What::Delete { expect }),
        (Some(title), Some(content), expect, false) => {
            let text = Text { title: title.to_string(), content: content.to_string() };
            check_text(&text).map_err(|reason| Rejection::new("text", reason))?;
            Ok(match expect {
                None => What::Publish(text),
                Some(expect) => What::Edit { text, expect },
            })
        }
        _ => Err(Rejection::new(
            "malformed",
            "a new post has title and content; an edit has expect besides; to delete one, give delete and expect alone",
        )),
    }
}

/// Checks a title and a content; the text says what to do.
pub fn check_text(text: &Text) -> Result<(), String> {
    let characters = text.title.chars().count();
    if !(1..=MAX_TITLE).contains(&characters) {
        return Err(format!("title has 1 to {MAX_TITLE} characters; this has {characters}"));
    }
    if text.title.chars().any(char::is_control) {
        return Err("title has no control characters, nor ends of lines".to_owned());
    }
    if text.title.trim().is_empty() {
        return Err("title has more than spaces".to_owned());
    }
    if text.content.len() > MAX_CONTENT {
        return Err(format!("content has at most {MAX_CONTENT} bytes of UTF-8; this has {}", text.content.len()));
    }
    // Postgres keeps every character but this one.
    if text.content.contains('\0') {
        return Err("content has no NUL characters (U+0000)".to_owned());
    }
    Ok(())
}

/// Checks a slug; the text says what to do.
pub fn check_slug(slug: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=MAX_SLUG).contains(&slug.len()) && slug.bytes().all(known) {
        return Ok(());
    }
    Err(format!("a slug has 1 to {MAX_SLUG} characters, each of a-z, 0-9 or -"))
}

impl What {
    /// A number by which it is known again: an id means what it was first used for.
    pub fn digest(&self) -> i64 {
        let (kind, text, expect) = match self {
            Self::Publish(text) => ("publish", Some(text), 0),
            Self::Edit { text, expect } => ("edit", Some(text), *expect),
            Self::Delete { expect } => ("delete", None, *expect),
        };
        let mut hasher = Sha256::new();
        hasher.update(kind);
        hasher.update(expect.to_be_bytes());
        if let Some(text) = text {
            // No title has a zero byte.
            hasher.update(&text.title);
            hasher.update([0]);
            hasher.update(&text.content);
        }
        i64::from_be_bytes(hasher.finalize().first_chunk().copied().unwrap_or_default())
    }
}

impl<'a> PostRecord<'a> {
    /// The record that asks for this.
    pub fn of(slug: &'a str, request_id: &'a str, what: &'a What) -> Self {
        let (text, expect) = match what {
            What::Publish(text) => (Some(text), None),
            What::Edit { text, expect } => (Some(text), Some(*expect)),
            What::Delete { expect } => (None, Some(*expect)),
        };
        Self {
            slug: slug.into(),
            request_id: request_id.into(),
            title: text.map(|text| (&*text.title).into()),
            content: text.map(|text| (&*text.content).into()),
            expect,
            delete: matches!(what, What::Delete { .. }),
        }
    }
}

impl Published {
    /// Understands a record of the topic of published posts.
    pub fn parse(record: &Record<'_>) -> Result<Self, Rejection> {
        let value = record.value.ok_or_else(|| Rejection::new("empty", "the record has no value"))?;
        // A later version of this program may say more, so what is not known is left alone.
        let published: Self = serde_json::from_slice(value).map_err(|error| {
            Rejection::new("malformed", format!(r#"not {{"slug": "...", "version": 1, "title": "...", ...}}: {error}"#))
        })?;
        check_slug(&published.slug).map_err(|reason| Rejection::new("slug", reason))?;
        if record.key != Some(published.slug.as_bytes()) {
            return Err(Rejection::new("other_key", format!("the key must be the slug, {:?}", published.slug)));
        }
        if published.version < 1 || published.post.is_some() == published.deleted {
            return Err(Rejection::new("malformed", "a post has a version, and title and content or deleted: true"));
        }
        Ok(published)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record<'a>(key: &'a str, value: &'a str) -> Record<'a> {
        Record { slot: 0, offset: 0, timestamp: 0, key: Some(key.as_bytes()), value: Some(value.as_bytes()) }
    }

    fn rejected(key: &str, value: &str) -> (&'static str, String) {
        let rejection = parse(&record(key, value)).unwrap_err();
        (rejection.kind, rejection.reason)
    }

    #[test]
    fn the_three_instructions_are_understood() {
        let text = Text { title: "A".to_owned(), content: "<b>".to_owned() };
        let asked =
            parse(&record("a-1", r#"{"slug":"a-1","request_id":"r","title":"A","content":"\u003cb>"}"#)).unwrap();
        assert_eq!(asked.what, What::Publish(text.clone()));
        let edit = r#"{"slug":"a-1","request_id":"r","title":"A","content":"<b>","expect":3}"#;
        assert_eq!(parse(&record("a-1", edit)).unwrap().what, What::Edit { text, expect: 3 });
        let delete = r#"{"slug":"a-1","request_id":"r","delete":true,"expect":3}"#;
        assert_eq!(parse(&record("a-1", delete)).unwrap().what, What::Delete { expect: 3 });
    }

    #[test]
    fn what_cannot_be_taken_says_why() {
        let post = |more: &str| format!(r#"{{"slug":"a","request_id":"r"{more}}}"#);
        assert_eq!(rejected("a", "no json").0, "malformed");
        assert_eq!(rejected("b", &post(r#","title":"A","content":"""#)).0, "other_key");
        assert_eq!(rejected("a", &post(r#","title":"A""#)).0, "malformed");
        assert_eq!(rejected("a", &post(r#","delete":true"#)).0, "malformed");
        assert_eq!(rejected("a", &post(r#","title":"A","content":"","delete":true,"expect":1"#)).0, "malformed");
        assert_eq!(rejected("a", &post(r#","title":"A","content":"","expect":0"#)).0, "expect");
        let (kind, reason) = rejected("a", &post(r#","title":"A","content":"","tags":[]"#));
        assert!(kind == "malformed" && reason.contains("tags"), "{reason}");
        let (kind, reason) = rejected("a", &post(r#","title":"A","content":"\u0000""#));
        assert!(kind == "text" && reason.contains("NUL"), "{reason}");
        let (_, reason) = rejected("a", &post(&format!(r#","title":"{}","content":"""#, "ä".repeat(201))));
        assert!(reason.contains("1 to 200") && reason.contains("201"), "{reason}");
        let (_, reason) = rejected("a", &post(&format!(r#","title":"A","content":"{}""#, "x".repeat(100_001))));
        assert!(reason.contains("100000") && reason.contains("100001"), "{reason}");
        assert_eq!(rejected("A b", r#"{"slug":"A b","request_id":"r","title":"A","content":""}"#).0, "slug");
        assert!(check_text(&Text { title: "ä".repeat(200), content: "x".repeat(100_000) }).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_is_understood(
            title in "[^\\p{Cc}]{0,20}x",
            content in "[^\\x00]{0,40}",
            expect in proptest::option::of(1_i64..),
            delete: bool,
        ) {
            let text = Text { title, content };
            let what = match (expect, delete) {
                (None, _) => What::Publish(text),
                (Some(expect), false) => What::Edit { text, expect },
                (Some(expect), true) => What::Delete { expect },
            };
            let value = serde_json::to_string(&PostRecord::of("a", "r", &what)).unwrap();
            prop_assert_eq!(parse(&record("a", &value)).unwrap().what, what);
        }
    }

    #[test]
    fn a_post_as_published_is_read_by_versions_that_know_less() {
        let value =
            r#"{"slug":"a","version":2,"title":"A","content":"x","published_at":1,"edited_at":2,"mood":"good"}"#;
        let post =
            Post { text: Text { title: "A".to_owned(), content: "x".to_owned() }, published_at: 1, edited_at: Some(2) };
        let published = Published { slug: "a".to_owned(), version: 2, post: Some(post), deleted: false };
        assert_eq!(Published::parse(&record("a", value)).unwrap(), published);
        let again = serde_json::to_string(&published).unwrap();
        assert_eq!(Published::parse(&record("a", &again)).unwrap(), published);
        let gone = Published { slug: "a".to_owned(), version: 3, post: None, deleted: true };
        assert_eq!(serde_json::to_string(&gone).unwrap(), r#"{"slug":"a","version":3,"deleted":true}"#);
        assert_eq!(Published::parse(&record("a", r#"{"slug":"a","version":3,"deleted":true}"#)).unwrap(), gone);
        assert!(Published::parse(&record("a", r#"{"slug":"a","version":3}"#)).is_err());
        assert!(Published::parse(&record("a", r#"{"slug":"a","version":0,"deleted":true}"#)).is_err());
    }
}
