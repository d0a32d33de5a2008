//! Pages for people. What they show of posts is text: every character of it is escaped where it is put in.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use crate::reads::Summary;
use crate::shelf::List;
use crate::wire::{MAX_CONTENT, MAX_TITLE, Post};

/// Path of the style sheet.
pub(super) const STYLE: &str = "/style.css";
/// Nothing is loaded from elsewhere, nothing is run, and nobody frames it.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The style sheet.
pub(super) async fn style() -> Response {
    let told = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=86400")];
    (told, include_str!("style.css")).into_response()
}

fn page(status: StatusCode, title: &str, main: &Markup) -> Response {
    let style = concat!("/style.css?", env!("CARGO_PKG_VERSION"));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href=(style);
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header { nav aria-label="Site" { a href="/" { "All posts" } } }
                main #main { (main) }
            }
        }
    };
    let told = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (status, told, Html(markup.into_string())).into_response()
}

/// The newest posts, or those further down, with a form for a new one.
pub(super) fn front(list: &List, further: bool) -> Response {
    let main = html! {
        h1 { @if further { "Older posts" } @else { "Posts" } }
        @if list.posts.is_empty() { p { "There are none yet." } }
        @for post in &list.posts { (summary(post)) }
        @if let Some(next) = &list.next { p { a rel="next" href={ "/?after=" (next) } { "Older posts" } } }
        @if !further { (form()) }
    };
    page(StatusCode::OK, if further { "Older posts" } else { "Posts" }, &main)
}

fn summary(post: &Summary) -> Markup {
    html! {
        article {
            h2 { a href={ "/post/" (post.slug) } lang="" dir="auto" { (post.title) } }
            p.when { (time(post.published_at)) }
            p lang="" dir="auto" { (post.excerpt) }
        }
    }
}

fn form() -> Markup {
    html! {
        section aria-labelledby="new" {
            h2 #new { "Write one" }
            form method="post" action="/post" {
                label for="title" { "Title" }
                input #title name="title" required maxlength=(MAX_TITLE) autocomplete="off" dir="auto";
                label for="content" { "Content" }
                textarea #content name="content" required rows="10" maxlength=(MAX_CONTENT) dir="auto"
                    aria-describedby="plain" {}
                p #plain.when { "Plain text: what looks like HTML is shown as it is." }
                button { "Publish" }
            }
        }
    }
}

/// A post.
pub(super) fn post(post: &Post) -> Response {
    let main = html! {
        article {
            h1 lang="" dir="auto" { (post.text.title) }
            p.when {
                "Published " (time(post.published_at))
                @if let Some(edited_at) = post.edited_at { ", edited " (time(edited_at)) }
            }
            div.content lang="" dir="auto" { (post.text.content) }
        }
    };
    page(StatusCode::OK, &post.text.title, &main)
}

/// That there is no such post.
pub(super) fn missing() -> Response {
    let main = html! {
        h1 { "Not found" }
        p { "There is no post here. If you have just published it, look again in a moment." }
    };
    page(StatusCode::NOT_FOUND, "Not found", &main)
}

fn time(milliseconds: i64) -> Markup {
    let Ok(time) = Timestamp::from_millisecond(milliseconds) else { return html! {} };
    html! { time datetime=(time) { (time.strftime("%-d %B %Y, %H:%M UTC")) } }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;
    use crate::wire::Text;

    #[tokio::test]
    async fn what_a_post_says_is_text_and_never_markup() {
        let evil = "</div><script>alert(1)</script>\"'&".to_owned();
        let text = Text { title: evil.clone(), content: evil.clone() };
        let answer = post(&Post { text, published_at: 1_700_000_000_000, edited_at: None });
        assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let shown = String::from_utf8(to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap();
        assert!(!shown.contains("<script") && shown.contains("&lt;script&gt;"), "{shown}");
        assert!(shown.contains("14 November 2023, 22:13 UTC"), "{shown}");
        let posts = vec![Summary {
            slug: "a".to_owned(),
            version: 1,
            title: evil.clone(),
            excerpt: evil,
            published_at: 0,
            edited_at: None,
        }];
        let answer = front(&List { posts, next: None }, false);
        let shown = String::from_utf8(to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap();
        assert!(!shown.contains("<script") && shown.contains("<label for=\"title\">"), "{shown}");
    }
}
