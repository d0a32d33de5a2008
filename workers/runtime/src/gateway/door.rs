//! The door of a gateway: who may come in, how many at once, and how large they may be.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};
use subtle::ConstantTimeEq;

use crate::gateway::problem::Problem;

/// Largest body, in bytes.
const BODY: usize = 256 * 1024;

/// What a gateway's users must keep to.
#[derive(Clone, Default)]
pub struct DoorOptions {
    /// Requests a second; no limit if absent.
    pub rate: Option<NonZeroU32>,
    /// Requests a second of each client; no limit if absent.
    pub client_rate: Option<NonZeroU32>,
    /// Whether clients come through a proxy, which says their addresses in `X-Forwarded-For`.
    pub behind_proxy: bool,
    /// Token that every request must bear; none if absent.
    pub token: Option<String>,
    /// Longest that a request may take.
    pub patience: Duration,
}

/// Guards routes.
pub struct Door {
    token: Option<String>,
    limiter: Option<DefaultDirectRateLimiter>,
    clients: Option<Clients>,
    patience: Duration,
}

impl Door {
    /// Puts a door before the routes.
    pub fn guard(options: DoorOptions, routes: Router) -> Router {
        let door = Arc::new(Self {
            token: options.token.map(|token| format!("Bearer {}", token.trim())),
            clients: options.client_rate.map(|rate| Clients::new(rate, options.behind_proxy)),
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
        // First its own limit: a client that is over it takes nothing from the others.
        let clients = self.clients.as_ref().and_then(|clients| clients.refuse(request));
        clients.or_else(|| Some(too_many("this service has", &self.limiter.as_ref()?.check().err()?)))
    }
}

fn too_many(who: &str, refused: &NotUntil<<DefaultClock as Clock>::Instant>) -> Problem {
    let seconds = refused.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
    let detail = format!("{who} too many requests; try again in {seconds} s");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds)
}

/// Limits each client by itself.
struct Clients {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    behind_proxy: bool,
    /// Clients that were looked at since those were forgotten that have not come for long.
    seen: AtomicUsize,
}

/// After how many requests clients are forgotten that have not come for long.
const FORGET: usize = 10_000;

impl Clients {
    fn new(rate: NonZeroU32, behind_proxy: bool) -> Self {
        Self { limiter: RateLimiter::keyed(Quota::per_second(rate)), behind_proxy, seen: AtomicUsize::new(0) }
    }

    fn refuse(&self, request: &Request) -> Option<Problem> {
        if self.seen.fetch_add(1, Ordering::Relaxed) % FORGET == FORGET - 1 {
            self.limiter.retain_recent();
        }
        let client = network(self.address(request)?);
        Some(too_many("you have sent", &self.limiter.check_key(&client).err()?))
    }

    /// Whoever is before the proxy can say anything in the header but for what the proxy puts last.
    fn address(&self, request: &Request) -> Option<IpAddr> {
        let forwarded = || {
            let said = request.headers().get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
            said.rsplit(',').next()?.trim().parse().ok()
        };
        let peer = || request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        self.behind_proxy.then(forwarded).flatten().or_else(peer)
    }
}

/// One client has a whole network of IPv6 addresses (RFC 6177), of which it could use another each time.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
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

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn from(peer: &str, forwarded: &[&str]) -> Request {
        let mut request = Request::default();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        for said in forwarded {
            request.headers_mut().append("x-forwarded-for", said.parse().unwrap());
        }
        request
    }

    #[test]
    fn one_client_takes_nothing_from_another() {
        let clients = Clients::new(ONE, false);
        assert!(clients.refuse(&from("10.0.0.1", &[])).is_none());
        assert!(clients.refuse(&from("10.0.0.1", &["10.0.0.9"])).is_some(), "a header changes nobody's address");
        assert!(clients.refuse(&from("10.0.0.2", &[])).is_none());
        assert!(clients.refuse(&from("2001:db8::1", &[])).is_none());
        assert!(clients.refuse(&from("2001:db8::2", &[])).is_some(), "the same network");
        assert!(clients.refuse(&from("2001:db8:0:1::1", &[])).is_none());
    }

    #[test]
    fn behind_a_proxy_its_word_counts_and_nobody_elses() {
        let clients = Clients::new(ONE, true);
        assert!(clients.refuse(&from("10.0.0.1", &["1.1.1.1, 10.0.0.7"])).is_none());
        assert!(clients.refuse(&from("10.0.0.1", &["2.2.2.2, 10.0.0.7"])).is_some());
        assert!(clients.refuse(&from("10.0.0.1", &["10.0.0.7", "3.3.3.3,10.0.0.8"])).is_none());
        // What came around the proxy is limited as what it is.
        assert!(clients.refuse(&from("10.0.0.9", &[])).is_none());
        assert!(clients.refuse(&from("10.0.0.9", &["nobody"])).is_some());
    }

    #[test]
    fn clients_that_have_not_come_for_long_are_forgotten() {
        let clients = Clients::new(NonZeroU32::MAX, false);
        for number in 0..2 * u32::try_from(FORGET).unwrap() {
            let address = std::net::Ipv4Addr::from_bits(number).to_string();
            assert!(clients.refuse(&from(&address, &[])).is_none());
        }
        assert!(clients.limiter.len() <= FORGET, "{}", clients.limiter.len());
    }
}
