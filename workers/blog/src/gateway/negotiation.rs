//! What a client's headers say.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use shardlane_runtime::gateway::Problem;

/// All values of a header that is a list.
fn listed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|one| !one.is_empty())
}

/// Whether a client wants a page more than JSON, as browsers do.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let (mut page, mut json) = (0.0_f32, 0.0_f32);
    for one in listed(headers, header::ACCEPT) {
        let mut parts = one.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        match &*kind {
            "text/html" | "application/xhtml+xml" => page = page.max(quality),
            "application/json" | "application/*" | "*/*" => json = json.max(quality),
            _ => {}
        }
    }
    page > 0.0 && page >= json
}

/// Whether a body is what a browser's form sends. Clients that do not say what they send often claim that it is; JSON of an object begins as no
/// form does.
pub(super) fn is_form(headers: &HeaderMap, body: &[u8]) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let form = kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded");
    form && body.trim_ascii_start().first() != Some(&b'{')
}

/// The tag of a version. A page is another text than JSON is, and another version of the program may make another page.
pub(super) fn etag(version: i64, page: bool) -> String {
    if page { format!("\"{version}-page-{}\"", env!("CARGO_PKG_VERSION")) } else { format!("\"{version}\"") }
}

/// Whether a client has the version that this tag is of.
pub(super) fn has_it(headers: &HeaderMap, etag: &str) -> bool {
    listed(headers, header::IF_NONE_MATCH).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// The version that a client wants to change. Whoever stands between us and it may have weakened the tag; its number says all.
pub(super) fn expected(headers: &HeaderMap) -> Result<i64, Problem> {
    let wanted = "name the version that you change, as the post's ETag has it: If-Match: \"3\"";
    let mut tags = listed(headers, header::IF_MATCH);
    let Some(tag) = tags.next() else {
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, wanted));
    };
    let number = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
    let number = number.split('-').next().and_then(|number| number.parse().ok()).filter(|number| *number >= 1);
    match (number, tags.next()) {
        (Some(number), None) => Ok(number),
        _ => Err(Problem::bad_request(format!("{wanted}; this is {tag:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn browsers_get_pages_and_programs_get_json() {
        let page = |accept: &str| wants_page(&headers(header::ACCEPT, accept));
        assert!(page("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8") && page("text/html"));
        assert!(!page("*/*") && !page("application/json") && !page("application/json, text/html;q=0.5"));
        assert!(!page("text/html;q=0") && !wants_page(&HeaderMap::new()));
    }

    #[test]
    fn a_form_is_told_from_json_that_claims_to_be_one() {
        let form = headers(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8");
        assert!(is_form(&form, b"title=a&content=b") && !is_form(&form, b" {\"title\": \"a\"}"));
        assert!(!is_form(&headers(header::CONTENT_TYPE, "application/json"), b"title=a"));
    }

    #[test]
    fn a_version_is_found_in_every_tag_of_it() {
        let version = |tag: &str| expected(&headers(header::IF_MATCH, tag)).ok();
        let page = etag(3, true);
        for tag in ["\"3\"", "3", "W/\"3\"", &*page] {
            assert_eq!(version(tag), Some(3), "{tag}");
        }
        for tag in ["*", "\"x\"", "\"0\"", "\"3\", \"4\"", "\"-3\""] {
            assert_eq!(version(tag), None, "{tag}");
        }
        assert!(has_it(&headers(header::IF_NONE_MATCH, "\"2\", W/\"3\""), "\"3\""));
        assert!(!has_it(&headers(header::IF_NONE_MATCH, "\"3\""), &page));
    }
}
