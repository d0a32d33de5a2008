//! The cluster, as a person's kubeconfig reaches it.

use http::{Method, Request};
use kube::api::{DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, KubeconfigError};
use kube::core::ApiResource;
use kube::{Api, Client, Config, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shardlane_operator::api;

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No kubeconfig, or not that context.
    #[error("no cluster: {0}; set KUBECONFIG, or name a --context")]
    Kubeconfig(#[from] KubeconfigError),
    /// The API server did not answer, or refused.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// The CRDs are not there.
    #[error("Shardlane is not installed in this cluster (no CRD of shardlane.dev): helm install shardlane-crds")]
    NotInstalled,
    /// There is no such service.
    #[error("there is no {name} in the namespace {namespace}; kubectl shardlane status -A shows all")]
    NoService {
        /// As it was given.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// Several kinds have one of that name.
    #[error("{name} is several: {kinds}; write KIND/{name}")]
    Several {
        /// As it was given.
        name: String,
        /// Their kinds.
        kinds: String,
    },
    /// The command is for another kind.
    #[error("{name} is a {kind}, and no {wanted}")]
    Kind {
        /// The service.
        name: String,
        /// What it is.
        kind: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A service's gateway refused, or is not there.
    #[error("the gateway of {name} says {problem}; kubectl shardlane status {name} shows how it is")]
    Gateway {
        /// The service, as it was given.
        name: String,
        /// In its own words.
        problem: String,
    },
    /// The shards could not be looked at.
    #[error("cannot look into the shards of {name}: {problem}")]
    Verify {
        /// The service.
        name: String,
        /// Why, and what to do.
        problem: String,
    },
    /// A request could not be made.
    #[error("cannot ask for {0}")]
    Request(#[from] http::Error),
    /// A file or standard output.
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
    /// It is no JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is no YAML.
    #[error("cannot write YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
}

/// A service of any kind.
pub struct Service {
    /// Its type.
    pub resource: ApiResource,
    /// As it is stored.
    pub object: DynamicObject,
}

impl Service {
    /// Its namespace.
    pub fn namespace(&self) -> String {
        self.object.namespace().unwrap_or_default()
    }
}

/// The cluster.
pub struct Access {
    /// Its API server.
    pub client: Client,
    namespace: String,
}

impl Access {
    /// As the kubeconfig says.
    pub async fn open(namespace: Option<String>, context: Option<String>) -> Result<Self, Failure> {
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options).await?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    /// All services.
    pub async fn services(&self, everywhere: bool) -> Result<Vec<Service>, Failure> {
        let (mut services, mut installed) = (Vec::new(), false);
        for resource in api::kinds() {
            let api: Api<DynamicObject> = if everywhere {
                Api::all_with(self.client.clone(), &resource)
            } else {
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
            };
            match api.list(&ListParams::default()).await {
                Ok(found) => {
                    installed = true;
                    let service = |object| Service { resource: resource.clone(), object };
                    services.extend(found.items.into_iter().map(service));
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        if installed { Ok(services) } else { Err(Failure::NotInstalled) }
    }

    /// The service that a person means by `NAME` or `KIND/NAME`.
    pub async fn service(&self, wanted: &str) -> Result<Service, Failure> {
        let (kind, name) = wanted.split_once('/').map_or((None, wanted), |(kind, name)| (Some(kind), name));
        let meant = |service: &Service| {
            let (resource, found) = (&service.resource, service.object.name_any());
            let called = |kind: &str| [&resource.kind, &resource.plural].iter().any(|n| n.eq_ignore_ascii_case(kind));
            found == name && kind.is_none_or(called)
        };
        let mut found: Vec<_> = self.services(false).await?.into_iter().filter(meant).collect();
        match (found.pop(), found.is_empty()) {
            (Some(service), true) => Ok(service),
            (Some(last), false) => {
                let kinds: Vec<_> = found.iter().chain([&last]).map(|service| service.resource.kind.clone()).collect();
                Err(Failure::Several { name: name.to_owned(), kinds: kinds.join(", ") })
            }
            (None, _) => Err(Failure::NoService { name: wanted.to_owned(), namespace: self.namespace.clone() }),
        }
    }

    /// A service as it is by now.
    pub async fn again(&self, service: &Service) -> Result<Service, Failure> {
        let (namespace, name) = (service.namespace(), service.object.name_any());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &service.resource);
        let object = api.get_opt(&name).await?.ok_or(Failure::NoService { name, namespace })?;
        Ok(Service { resource: service.resource.clone(), object })
    }

    /// What a pod of a service says of itself; `None` if it does not answer.
    pub async fn says<T: DeserializeOwned>(&self, namespace: &str, pod: &str) -> Option<T> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:9090/proxy/status");
        let (code, text) = self.ask(&path, None).await.ok()?;
        serde_json::from_str(&text).ok().filter(|_| code == 200)
    }

    /// Asks a pod or a Service through the API server, so that nothing need be forwarded. Gives its answer with its status.
    pub async fn ask(&self, path: &str, body: Option<&Value>) -> Result<(u16, String), Failure> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request =
            Request::builder().method(method).uri(path).header("content-type", "application/json").body(bytes)?;
        match self.client.request_text(request).await {
            Ok(text) => Ok((200, text)),
            Err(kube::Error::Api(status)) => Ok((status.code, status.message.clone())),
            Err(error) => Err(error.into()),
        }
    }
}
