//! The charts, as people use them.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use shardlane_e2e::control_plane::{DATABASE, Place, external_spec, root, run, settled};
use shardlane_e2e::same;
use shardlane_e2e::stand_in::StandIn;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a chart gives, as the API server takes it, with every part that is off by default.
#[tokio::test]
async fn the_api_server_takes_what_the_charts_give() -> Result<()> {
    let place = Place::make("accepted").await?;
    let everything = [
        "--set=replicas=2,watchNamespaces={accepted}",
        "--set=images.operator.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "--set=monitoring.dashboard.enabled=true",
        "--set=nodeSelector.disk=ssd,podAnnotations.a=b,tolerations[0].operator=Exists",
    ];
    for arguments in [&[][..], &everything[..]] {
        for chart in ["charts/shardlane-crds", "charts/shardlane"] {
            let mut template = vec!["template", "anew", chart, "--namespace", &place.name, "--kube-version", "1.34.0"];
            if chart == "charts/shardlane" {
                template.extend(arguments);
            }
            let given = run("helm", &template).await?;
            apply_dry(&given).await.with_context(|| format!("{chart} {arguments:?}"))?;
        }
    }
    Ok(())
}

async fn apply_dry(manifest: &str) -> Result<()> {
    let mut kubectl = Command::new("kubectl")
        .args(["apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    kubectl.stdin.take().context("no input")?.write_all(manifest.as_bytes()).await?;
    let output = kubectl.wait_with_output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn wrong_values_are_refused_with_their_name() -> Result<()> {
    for (value, word) in [
        ("replicas=-1", "replicas"),
        ("images.operator.digest=latest", "digest"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
        ("images.redis.tag=", "tag"),
        ("monitoring.podMonitor.interval=soon", "interval"),
        ("watchNamespaces={Upper}", "watchNamespaces"),
        ("monitoring.prometheusRules.enabled=true", "prometheusRules"),
        ("logLevel=", "logLevel"),
    ] {
        let refused =
            run("helm", &["template", "x", "charts/shardlane", "--kube-version", "1.34.0", "--set", value]).await;
        let refused = refused.err().with_context(|| format!("{value} was taken"))?.to_string();
        ensure!(refused.contains(word), "{value}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn crds_and_services_survive_an_uninstall_and_crds_follow_an_upgrade() -> Result<()> {
    let place = Place::make("survivors").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let operator = place.operator("one").await?;
    place.create("demo", external_spec("survivors")).await?;
    settled(&place, &["demo"]).await?;
    drop(operator);

    // A chart that has another column than the installed one: what is in the cluster follows.
    let chart = root().join("target/control-plane/survivors/crds");
    run("cp", &["-rL", "charts/shardlane-crds", &chart.display().to_string()]).await?;
    let file = chart.join("files/signupshards.yaml");
    let changed = std::fs::read_to_string(&file)?.replacen("name: Phase", "name: Where", 1);
    std::fs::write(&file, changed)?;
    let column = async || {
        let path = "jsonpath={.spec.versions[0].additionalPrinterColumns[2].name}";
        run("kubectl", &["get", "crd", "signupshards.shardlane.dev", "-o", path]).await
    };
    let upgrade = async |chart: &str| {
        run("helm", &["upgrade", "shardlane-crds", chart, "--namespace", "kube-system"]).await.map(drop)
    };
    upgrade(&chart.display().to_string()).await?;
    same("column", column().await?, "Where".to_owned())?;
    upgrade("charts/shardlane-crds").await?;
    same("column", column().await?, "Phase".to_owned())?;

    run("helm", &["uninstall", "survivors", "--namespace", "survivors"]).await?;
    run("helm", &["uninstall", "shardlane-crds", "--namespace", "kube-system"]).await?;
    let still = place.services().get("demo").await?;
    ensure!(still.metadata.deletion_timestamp.is_none(), "the service is on its way out");
    // And taken up by the next installation.
    let again =
        ["install", "shardlane-crds", "charts/shardlane-crds", "--namespace", "kube-system", "--take-ownership"];
    run("helm", &again).await?;
    let watched = "watchNamespaces={survivors}";
    run("helm", &["install", "survivors", "charts/shardlane", "--namespace", "survivors", "--set", watched]).await?;
    let _operator = place.operator("one").await?;
    settled(&place, &["demo"]).await
}
