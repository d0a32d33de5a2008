//! Ports of pods on this machine's loopback, through the API server: the same way into any cluster.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A port here that leads to a pod there, for as long as this lives.
pub struct Forward {
    /// Where it is.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Leads to a port of a ready pod with these labels; to another pod when the first has gone. `local` 0: any port.
    pub async fn open(client: &Client, namespace: &str, labels: &str, port: u16, local: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", local)).await.with_context(|| format!("port {local}"))?;
        let address = listener.local_addr()?;
        let (pods, labels): (Api<Pod>, _) = (Api::namespaced(client.clone(), namespace), labels.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (pods, labels) = (pods.clone(), labels.clone());
                // A connection that fails is closed, as one to a pod that has gone would be.
                tokio::spawn(async move { carry(pods, &labels, port, connection).await });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(pods: Api<Pod>, labels: &str, port: u16, mut connection: TcpStream) -> Result<()> {
    let candidates = pods.list(&ListParams::default().labels(labels)).await?;
    let ready: Vec<_> = candidates.items.iter().filter(|pod| is_ready(pod)).collect();
    let pod = ready.get(rand::random_range(0..ready.len().max(1))).context("no pod is ready")?;
    let mut forward = pods.portforward(&pod.name_any(), &[port]).await?;
    let mut stream = forward.take_stream(port).context("no stream")?;
    tokio::io::copy_bidirectional(&mut connection, &mut stream).await?;
    Ok(())
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}
