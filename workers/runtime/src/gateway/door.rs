//! The door of a gateway: who may come in, how many at once, and how large they may be.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use subtle::ConstantTimeEq;

use crate::gateway::problem::Problem;

/// Largest body, in bytes.
const BODY: usize = 256 * 1024;

/// What a gateway's users must keep to.
#[derive(Clone, Default)]
pub struct DoorOptions {
    /// Requests a second; no limit if absent.
    pub rate: Option<NonZeroU32>,
    /// Token that every request must bear; none if absent.
    pub token: Option<String>,
    /// Longest that a request may take.
    pub patience: Duration,
}

/// Guards routes.
pub struct Door {
    token: Option<String>,
    limiter: Option<DefaultDirectRateLimiter>,
    patience: Duration,
}

impl Door {
    /// Puts a door before the routes.
    pub fn guard(options: DoorOptions, routes: Router) -> Router {
        let door = Arc::new(Self {
            token: options.token.map(|token| format!("Bearer {}", token.trim())),
            limiter: options.rate.map(|rate| RateLimiter::direct(Quota::per_second(rate))),
            patience: options.patience,
        });
        routes
            .fallback(async || Problem::not_found("there is nothing at this path; /openapi.json lists what there is"))
            .layer(from_fn_with_state(door, pass))
            .layer(DefaultBodyLimit::max(BODY))
    }

    fn refuse(&self, request: &Request) -> Option<Problem> {
        if let Some(expected) = &self.token {
            let given = request.headers().get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
            // In a time that does not tell how much of it was right.
            if !bool::from(given.ct_eq(expected.as_bytes())) {
                let challenge = HeaderValue::from_static("Bearer");
                return Some(
                    Problem::new(StatusCode::UNAUTHORIZED, "send the service's token: Authorization: Bearer <token>")
                        .header(header::WWW_AUTHENTICATE, challenge),
                );
            }
        }
        let wait = self.limiter.as_ref()?.check().err()?.wait_time_from(DefaultClock::default().now());
        let seconds = wait.as_secs() + 1;
        let detail = format!("too many requests; try again in {seconds} s");
        Some(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds))
    }
}

async fn pass(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if let Some(problem) = door.refuse(&request) {
        return problem.into_response();
    }
    match tokio::time::timeout(door.patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("this took too long; try again with the same id").into_response(),
    }
}
