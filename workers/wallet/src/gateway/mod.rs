//! `transfer-server`: the HTTP front of a wallet.

mod accounts;
mod auditor;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use shardlane_runtime::cli::GatewayOptions;
use shardlane_runtime::gateway::{Door, Gateway, GatewayError, Problem, decided, serve};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::Shutdown;
use utoipa::OpenApi;

use crate::gateway::auditor::{Auditor, Findings};
use crate::reads::{DONE, DoneState};
use crate::reason::Reason;
use crate::service::{PAYMENT, WalletSettings};
use crate::wire::{PaymentRecord, check_account};

/// How long a deposit or a change waits for its outcome before its user is told to ask again.
const PATIENCE: Duration = Duration::from_secs(5);

struct Wallet {
    gateway: Gateway,
    settings: WalletSettings,
    findings: Findings,
}

/// Runs a gateway until the shutdown.
pub async fn run(options: GatewayOptions, shutdown: Shutdown) -> Result<(), GatewayError> {
    let GatewayOptions { config, door, ports } = options;
    let settings: WalletSettings = config.settings()?;
    let metrics = Arc::new(Metrics::new()?);
    let health = Health::starting(Arc::clone(&metrics), &["slots"]);
    let gateway = Gateway::start(Arc::new(config), &health)?;
    let findings = Findings::default();
    let wallet = Arc::new(Wallet { gateway, settings, findings });
    let auditor = Auditor::new(Arc::clone(&wallet), metrics.registry())?;
    tokio::select! {
        served = serve(ports, Door::guard(door, routes(wallet)), &health, shutdown) => served,
        never = auditor.run() => match never {},
    }
}

fn routes(wallet: Arc<Wallet>) -> Router {
    Router::new()
        .route("/api/v1/transfers", post(transfers::transfer))
        .route("/api/v1/transfers/{request_id}", get(transfers::state))
        .route("/api/v1/accounts", post(accounts::open))
        .route("/api/v1/accounts/{account}", get(accounts::account))
        .route("/api/v1/accounts/{account}", delete(accounts::close))
        .route("/api/v1/accounts/{account}/limit", put(accounts::limit))
        .route("/api/v1/accounts/{account}/entries", get(accounts::entries))
        .route("/api/v1/deposits", post(accounts::deposit))
        .route("/api/v1/audit", get(auditor::audit))
        .route("/openapi.json", get(async || Json(Api::openapi())))
        .with_state(wallet)
}

#[derive(OpenApi)]
#[openapi(
    info(title = "WalletPartition", description = "Transfers between accounts, exactly once; money is conserved."),
    paths(
        transfers::transfer,
        transfers::state,
        accounts::open,
        accounts::account,
        accounts::close,
        accounts::limit,
        accounts::entries,
        accounts::deposit,
        auditor::audit
    ),
    components(schemas(
        transfers::NewTransfer,
        transfers::Echo,
        transfers::Transfer,
        transfers::State,
        accounts::NewAccount,
        accounts::NewDeposit,
        accounts::NewLimit,
        accounts::Account,
        accounts::Entries,
        accounts::Entry,
        auditor::AuditAnswer,
        auditor::CurrencyAnswer,
        auditor::OpenAudit,
        Reason
    ))
)]
struct Api;

impl Wallet {
    /// Asks the worker that owns an account.
    async fn read<T: DeserializeOwned>(&self, account: &str, path: &str, query: &[(&str, &str)]) -> Result<T, Problem> {
        self.gateway.read(account.as_bytes(), path, query).await
    }

    /// Takes an instruction for an account.
    async fn instruct(&self, record: &PaymentRecord<'_>) -> Result<(), Problem> {
        let value = serde_json::to_vec(record).map_err(|error| Problem::internal(&error))?;
        self.gateway
            .submit(PAYMENT, record.account.as_bytes(), value)
            .await
            .map_err(|problem| problem.with("request_id", &*record.request_id).with("account", &*record.account))
    }

    /// Takes an instruction and waits for what becomes of it, as `mine` finds it. `None`: it is safe and takes its time.
    async fn carry_out(
        &self,
        record: &PaymentRecord<'_>,
        mine: impl Fn(&DoneState) -> Option<bool>,
    ) -> Result<Option<Option<Reason>>, Problem> {
        self.instruct(record).await?;
        let query = [("account", &*record.account), ("request_id", &*record.request_id)];
        let (query, mine) = (&query, &mine);
        let found = decided(PATIENCE, || async move {
            // Whoever owns the account may be away for a moment, but has the instruction in any case.
            let done = self.read::<Vec<DoneState>>(&record.account, DONE, query).await.ok()?;
            done.iter().find_map(|done| Some((mine(done)?, done.refused)))
        });
        match found.await {
            None => Ok(None),
            Some((true, refused)) => Ok(Some(refused)),
            Some((false, _)) => {
                let detail = "this request_id was used for something else on this account; choose another";
                Err(Problem::new(StatusCode::CONFLICT, detail).with("request_id", &*record.request_id))
            }
        }
    }
}

fn checked_account(account: &str) -> Result<(), Problem> {
    check_account(account).map_err(Problem::bad_request)
}

/// Refused for a reason that a program can read.
fn refused(reason: Reason) -> Problem {
    let status = if reason == Reason::NoAccount { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
    Problem::new(status, reason.text()).with("reason", reason.as_str())
}

/// It is safe, and its outcome is found by asking once more with the same id.
fn accepted(location: String, request_id: &str) -> Response {
    let detail = "it is safe and will be done; ask again with the same request_id to hear its outcome";
    let body = serde_json::json!({ "request_id": request_id, "detail": detail });
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response()
}
