//! `reshard`: how far a change of the number of partitions has come.

mod look;
mod screen;
mod text;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::access::{Access, Failure, Service};
use crate::table::colours;
use look::{Look, MoverStatus, State};
use screen::Screen;

/// How long between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the API server may be away while somebody watches.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows it once. The exit code says whether nothing moves.
pub async fn show(access: &Access, name: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let look = look(access, &access.service(name).await?).await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&look.to_json())?);
    } else {
        let terminal = std::io::stdout().is_terminal();
        print!("{}", text::text(&look, terminal, colours()));
    }
    Ok(code(&look))
}

/// Shows it until nothing moves, or nothing will before somebody acts. The exit code says which.
pub async fn watch(access: &Access, name: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let mut service = access.service(name).await?;
    let mut screen = Screen::of(as_json);
    let mut away: Option<Instant> = None;
    loop {
        match seen(access, &service).await {
            Ok((now, look)) => {
                (service, away) = (now, None);
                screen.show(&look)?;
                match look.state() {
                    State::Settled | State::Paused => return Ok(code(&look)),
                    State::Unseen | State::Moving | State::Held(_) => {}
                }
            }
            Err(gone @ Failure::NoService { .. }) => return Err(gone),
            Err(error) if away.get_or_insert_with(Instant::now).elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn code(look: &Look) -> ExitCode {
    if look.state() == State::Settled { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

async fn seen(access: &Access, service: &Service) -> Result<(Service, Look), Failure> {
    let service = access.again(service).await?;
    let look = look(access, &service).await?;
    Ok((service, look))
}

async fn look(access: &Access, service: &Service) -> Result<Look, Failure> {
    let mut look = Look::of(&service.resource.kind, &service.object);
    if look.reshard.is_some() {
        look.mover = mover(access, &look).await?;
    }
    Ok(look)
}

/// What the mover says; `None` while there is none, or it does not answer.
async fn mover(access: &Access, look: &Look) -> Result<Option<MoverStatus>, Failure> {
    let labels = format!(
        "app.kubernetes.io/component=mover,app.kubernetes.io/instance={},shardlane.dev/kind={}",
        look.name, look.kind
    );
    let pods: Api<Pod> = Api::namespaced(access.client.clone(), &look.namespace);
    let found = pods.list(&ListParams::default().labels(&labels)).await?.items;
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let newest = found.into_iter().filter(runs).max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let Some(pod) = newest else { return Ok(None) };
    Ok(access.says(&look.namespace, &pod.name_any()).await)
}
