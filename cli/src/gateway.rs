//! A service's gateway, through the API server, so that nothing need be forwarded.

use kube::ResourceExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::access::{Access, Failure};

/// The gateway of one service.
pub struct Gateway<'a> {
    access: &'a Access,
    base: String,
}

/// What a gateway says.
pub struct Answer {
    /// Its status; 200 for every success.
    pub code: u16,
    /// As it came.
    pub text: String,
    /// What is in it; the text itself if it is no JSON.
    pub value: Value,
}

impl<'a> Gateway<'a> {
    /// The gateway of the service that a person means by `name`, which has to be of the kind.
    pub async fn of(access: &'a Access, name: &str, wanted: &'static str) -> Result<Self, Failure> {
        let service = access.service(name).await?;
        let (kind, name) = (service.resource.kind.clone(), service.object.name_any());
        if kind != wanted {
            return Err(Failure::Kind { name, kind, wanted });
        }
        let base = format!("/api/v1/namespaces/{}/services/{name}-gateway:http/proxy", service.namespace());
        Ok(Self { access, base })
    }

    /// Asks it: with a body by POST, else by GET.
    pub async fn ask(&self, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let (code, text) = self.access.ask(&format!("{}{path}", self.base), body).await?;
        let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
        Ok(Answer { code, text, value })
    }
}

impl Answer {
    /// What went wrong, in the gateway's words: `409: the same id with another amount`.
    pub fn problem(&self) -> String {
        let detail = self.value["detail"].as_str().or(self.value["title"].as_str());
        let detail = detail.or(self.value.as_str()).map_or_else(|| self.value.to_string(), str::to_owned);
        format!("{}: {detail}", self.code)
    }
}

/// What need not be written otherwise (RFC 3986, section 2.3: unreserved).
const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a path or a query.
pub fn quoted(text: &str) -> String {
    utf8_percent_encode(text, QUOTED).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_of_any_characters_is_a_part_of_a_path() {
        assert_eq!(quoted("Alice-1.x_~"), "Alice-1.x_~");
        assert_eq!(quoted("a b/ü?&%"), "a%20b%2F%C3%BC%3F%26%25");
    }

    #[test]
    fn a_problem_is_told_in_the_gateways_words() {
        let problem = |value: Value| Answer { code: 409, text: String::new(), value }.problem();
        assert_eq!(problem(json!({ "title": "Conflict", "detail": "another amount" })), "409: another amount");
        assert_eq!(problem(json!({ "title": "Conflict" })), "409: Conflict");
        assert_eq!(problem(json!("no endpoints")), "409: no endpoints");
        assert_eq!(problem(json!({ "x": 1 })), "409: {\"x\":1}");
    }
}
