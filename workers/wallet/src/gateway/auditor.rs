//! Audits: begun through the topic, like everything else, and read from the shards.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State as Shared;
use futures::future::join_all;
use prometheus::{Gauge, GaugeVec, Opts, Registry};
use serde::Serialize;
use shardlane_runtime::gateway::Problem as Refusal;
use shardlane_runtime::process::now_ms;
use utoipa::ToSchema;

use crate::audit::{self, Money, Problem, Report, SlotBooks, call, imbalances, report};
use crate::gateway::Wallet;
use crate::money::{Currency, Minor};
use crate::reads::BOOKS;
use crate::service::PAYMENT;
use crate::wire::{mark, mark_key};

/// How often the shards' books are read.
const LOOK: Duration = Duration::from_secs(1);

/// What the auditor has found last.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<Option<Report>>);

impl Findings {
    fn set(&self, report: Report) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    fn get(&self) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The money of the last audit that has closed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditAnswer {
    /// Whether an audit has closed, and nothing is wrong.
    holds: bool,
    /// The last audit that has closed.
    audit: Option<i64>,
    /// Seconds since its cut.
    age_seconds: Option<f64>,
    /// A later audit, and what it waits for.
    open: Option<OpenAudit>,
    currencies: Vec<CurrencyAnswer>,
    /// What is wrong.
    problems: Vec<String>,
}

/// An audit that has not closed yet.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenAudit {
    audit: i64,
    waiting_for: String,
}

/// The money of one currency, at the cut.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CurrencyAnswer {
    #[schema(value_type = String)]
    currency: Currency,
    /// What came from outside.
    deposited: String,
    /// What accounts held.
    balances: String,
    /// What was on its way.
    in_transit: String,
    /// Whether nothing is wrong with it.
    holds: bool,
}

/// Whether all money is there: at a consistent cut over all partitions, which stops nothing.
#[utoipa::path(get, path = "/api/v1/audit", responses(
    (status = 200, body = AuditAnswer), (status = 503, description = "Not all partitions have answered yet."),
))]
pub(super) async fn audit(Shared(wallet): Shared<Arc<Wallet>>) -> Result<Json<AuditAnswer>, Refusal> {
    let report = wallet.findings.get();
    let report = report.ok_or_else(|| Refusal::unavailable("not all partitions have told of their books yet"))?;
    let Report { closed, open, problems } = report;
    let currency = |(currency, money): (&Currency, &Money)| CurrencyAnswer {
        currency: *currency,
        deposited: Minor(money.deposited).to_string(),
        balances: Minor(money.balances).to_string(),
        in_transit: Minor(money.in_transit).to_string(),
        holds: !problems.iter().any(|problem| problem.currency == Some(*currency)),
    };
    Ok(Json(AuditAnswer {
        holds: closed.is_some() && problems.is_empty(),
        audit: closed.as_ref().map(|closed| closed.epoch),
        age_seconds: closed.as_ref().map(|closed| age(closed.cut_at)),
        open: open.map(|(audit, waiting_for)| OpenAudit { audit, waiting_for }),
        currencies: closed.iter().flat_map(|closed| closed.money.iter().map(currency)).collect(),
        problems: problems.into_iter().map(|problem| problem.text).collect(),
    }))
}

/// Seconds since a cut.
fn age(cut_at: i64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let milliseconds = now_ms().saturating_sub(cut_at.max(0)).max(0) as f64;
    milliseconds / 1000.0
}

/// Begins audits and reads what they find. Each gateway has one; several do no harm, for an audit has only its number.
pub(super) struct Auditor {
    wallet: Arc<Wallet>,
    interval: Duration,
    metrics: AuditMetrics,
    began: Instant,
    /// Where accounts did not hold what they should when an audit last closed.
    off: Vec<Problem>,
    /// The last audit that was closed.
    closed: Option<i64>,
    /// Since when no audit is under way.
    idle: Option<Instant>,
}

struct AuditMetrics {
    holds: Gauge,
    age: Gauge,
    money: GaugeVec,
}

impl AuditMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let holds = Gauge::new("shardlane_wallet_audit_holds", "1 while every audit finds all money there.")?;
        let age =
            Gauge::new("shardlane_wallet_audit_age_seconds", "Seconds since the cut of the last audit that closed.")?;
        let money = Opts::new("shardlane_wallet_money", "Money at that cut, in major units.");
        let money = GaugeVec::new(money, &["currency", "what"])?;
        // Not known yet is not wrong.
        holds.set(1.0);
        registry.register(Box::new(holds.clone()))?;
        registry.register(Box::new(age.clone()))?;
        registry.register(Box::new(money.clone()))?;
        Ok(Self { holds, age, money })
    }

    #[allow(clippy::cast_precision_loss)]
    fn tell(&self, report: &Report) {
        self.holds.set(if report.problems.is_empty() { 1.0 } else { 0.0 });
        let Some(closed) = &report.closed else { return };
        for (currency, money) in &closed.money {
            let Money { deposited, balances, in_transit } = money;
            for (what, minor) in [("deposited", deposited), ("balances", balances), ("in_transit", in_transit)] {
                self.money.with_label_values(&[currency.as_str(), what]).set(*minor as f64 / 100.0);
            }
        }
    }
}

impl Auditor {
    pub(super) fn new(wallet: Arc<Wallet>, registry: &Registry) -> prometheus::Result<Self> {
        let interval = Duration::from_secs(wallet.settings.audit.interval_seconds.into());
        let metrics = AuditMetrics::new(registry)?;
        Ok(Self { wallet, interval, metrics, began: Instant::now(), off: Vec::new(), closed: None, idle: None })
    }

    /// Goes on until the process ends.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            // Partitions that do not answer are waited for: the age of the last audit tells of it.
            if let Ok(books) = self.books(false).await {
                self.look(&books).await;
            }
            let closed = self.wallet.findings.get().and_then(|report| report.closed);
            // One that has not closed since the start is at least as old as this.
            self.metrics.age.set(closed.map_or(self.began.elapsed().as_secs_f64(), |closed| age(closed.cut_at)));
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&mut self, books: &[SlotBooks]) {
        let mut found = report(books);
        let closed = found.closed.as_ref().map(|closed| closed.epoch);
        if closed > self.closed
            && let Ok(books) = self.books(true).await
        {
            (self.off, self.closed, self.idle) = (imbalances(&books), closed, None);
        }
        found.problems.extend(self.off.iter().cloned());
        for Problem { text, .. } in &found.problems {
            tracing::error!(problem = text, "the money is not all there");
        }
        self.metrics.tell(&found);
        if found.open.is_some() {
            self.idle = None;
        } else {
            self.idle.get_or_insert_with(Instant::now);
        }
        let first = audit::newest(books) == 0;
        let due = first || self.idle.is_some_and(|since| since.elapsed() >= self.interval);
        self.wallet.findings.set(found);
        if let Some((epoch, slots)) = call(books, due) {
            self.idle = None;
            self.tell_slots(epoch, &slots).await;
        }
    }

    async fn books(&self, balances: bool) -> Result<Vec<SlotBooks>, Refusal> {
        let balances = balances.to_string();
        let parts = self.wallet.gateway.reads.all::<Vec<SlotBooks>>(BOOKS, &[("balances", &balances)]).await?;
        Ok(parts.into_iter().flat_map(|part| part.answer).collect())
    }

    /// Tells slots of an audit. Whoever does not hear of it is told again at the next look.
    async fn tell_slots(&self, epoch: i64, slots: &[u32]) {
        let gateway = &self.wallet.gateway;
        let request_id = format!("audit-{epoch}");
        let told = slots.iter().map(async |slot| {
            let key = mark_key(*slot, |key| gateway.keyspace.slot_of(key));
            let Ok(value) = serde_json::to_vec(&mark(&key, epoch, &request_id)) else { return };
            // Its own log says it; the next look tells whether it was to any avail.
            let _ = gateway.submit(PAYMENT, key.as_bytes(), value).await;
        });
        join_all(told).await;
    }
}
