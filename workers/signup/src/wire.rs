//! The records of a sign-up: what comes in, what goes out.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use shardlane_runtime::record::{Record, check_request_id};
use shardlane_runtime::service::Rejection;

use crate::username::UsernameRules;

/// A request as it lies in the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignupRequest<'a> {
    /// Chosen by whoever asks; the same for every retry.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The name, in canonical form.
    #[serde(borrow)]
    pub username: Cow<'a, str>,
}

/// An outcome as it lies in the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignupResponse<'a> {
    /// The request's.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// The request's.
    #[serde(borrow)]
    pub username: Cow<'a, str>,
    /// Whether the name is this request's.
    pub success: bool,
}

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signup {
    /// Chosen by whoever asks.
    pub request_id: String,
    /// In canonical form.
    pub username: String,
}

/// Understands a record of the request topic.
pub fn parse(rules: &UsernameRules, record: &Record<'_>) -> Result<Signup, Rejection> {
    let value = record.value.ok_or_else(|| Rejection::new("empty", "the record has no value"))?;
    let request: SignupRequest<'_> = serde_json::from_slice(value).map_err(|error| {
        Rejection::new("malformed", format!(r#"not {{"request_id": "...", "username": "..."}}: {error}"#))
    })?;
    check_request_id(&request.request_id).map_err(|reason| Rejection::new("request_id", reason))?;
    let canonical =
        rules.canonical(&request.username).map_err(|error| Rejection::new("username", error.to_string()))?;
    if canonical != request.username || Some(canonical.as_bytes()) != record.key {
        let reason = format!("key and username must both be the name's canonical form, {canonical:?}");
        return Err(Rejection::new("not_canonical", reason));
    }
    Ok(Signup { request_id: request.request_id.into_owned(), username: canonical })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(key: Option<&[u8]>, value: Option<&[u8]>) -> (&'static str, String) {
        let record = Record { slot: 0, offset: 0, timestamp: 0, key, value };
        let rejection = parse(&UsernameRules::default(), &record).unwrap_err();
        (rejection.kind, rejection.reason)
    }

    #[test]
    fn a_request_as_the_go_client_writes_it_is_understood() {
        let value = br#"{"request_id":"2Pm4FX0Z5UGHSnYKKdvVgxtgHQb","username":"al\u0069ce"}"#;
        let record = Record { slot: 0, offset: 0, timestamp: 0, key: Some(b"alice"), value: Some(value) };
        let signup = parse(&UsernameRules::default(), &record).unwrap();
        assert_eq!(signup.username, "alice");
    }

    #[test]
    fn what_cannot_be_taken_says_why() {
        assert_eq!(rejected(Some(b"a"), None).0, "empty");
        let (kind, reason) = rejected(Some(b"a"), Some(br#"{"username":"a"}"#));
        assert_eq!(kind, "malformed");
        assert!(reason.contains("request_id"), "{reason}");
        assert_eq!(rejected(Some(b"a"), Some(b"\xff not json")).0, "malformed");
        assert_eq!(rejected(Some(b"a"), Some(br#"{"request_id":"","username":"a"}"#)).0, "request_id");
        assert_eq!(rejected(Some(b"a"), Some(br#"{"request_id":"1","username":"\u0000"}"#)).0, "username");
        let (kind, reason) = rejected(Some(b"Alice"), Some(br#"{"request_id":"1","username":"Alice"}"#));
        assert_eq!(kind, "not_canonical");
        assert!(reason.contains(r#""alice""#), "{reason}");
    }

    #[test]
    fn a_huge_name_is_rejected_with_a_short_reason() {
        let name = "x".repeat(1_000_000);
        let value = format!(r#"{{"request_id":"1","username":"{name}"}}"#);
        let (kind, reason) = rejected(Some(name.as_bytes()), Some(value.as_bytes()));
        assert_eq!(kind, "username");
        assert!(reason.len() < 200);
    }
}
