//! Secrets that services use. That one has changed is told by a watch, which sees no contents; they are read only then.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher as start};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use crate::build::config::short_hash;
use crate::watched::{Scope, ServiceKey, Watched};

/// A Secret, without what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundSecret {
    /// Its keys, each with a short hash of its value, from which that cannot be told.
    pub keys: BTreeMap<String, String>,
}

impl FoundSecret {
    /// Of what it holds.
    pub fn of(secret: Secret) -> Self {
        let data = secret.data.unwrap_or_default().into_iter();
        Self { keys: data.map(|(key, value)| (key, short_hash(&String::from_utf8_lossy(&value.0)))).collect() }
    }

    /// Changes when one of these keys does.
    pub fn version(&self, keys: &[&str]) -> String {
        let known: Vec<_> = keys.iter().map(|key| self.keys.get(*key).map_or("", String::as_str)).collect();
        short_hash(&known.join(" "))
    }
}

type Place = (String, String);

#[derive(Default)]
struct State {
    /// The resource version of each Secret.
    versions: HashMap<Place, String>,
    /// What was read, and at which resource version.
    read: HashMap<Place, (String, FoundSecret)>,
    /// Watches that have not told yet what there is.
    silent: usize,
    /// Who uses it.
    users: HashMap<Place, HashSet<ServiceKey>>,
}

/// All Secrets that services use.
pub struct Secrets {
    client: Client,
    watched: Arc<Watched>,
    state: Mutex<State>,
}

impl Secrets {
    /// None yet.
    pub fn new(client: Client, watched: Arc<Watched>) -> Self {
        Self { client, watched, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch.
    pub fn watch(self: &Arc<Self>, scope: &Scope) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        self.state().silent = scope.each().len();
        for namespace in scope.each() {
            let api = match &namespace {
                Some(namespace) => Api::namespaced(self.client.clone(), namespace),
                None => Api::all(self.client.clone()),
            };
            tasks.spawn(Arc::clone(self).follow(api, namespace));
        }
        tasks
    }

    async fn follow(self: Arc<Self>, api: Api<PartialObjectMeta<Secret>>, namespace: Option<String>) {
        let mut events = start(api, watcher::Config::default()).default_backoff().boxed();
        let (mut listed, mut has_told) = (HashSet::new(), false);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(secret)) => {
                    let place = (secret.namespace().unwrap_or_default(), secret.name_any());
                    listed.insert(place.clone());
                    self.is_at(place, secret.resource_version());
                }
                Ok(Event::InitDone) => {
                    self.keep(namespace.as_deref(), &std::mem::take(&mut listed));
                    if !std::mem::replace(&mut has_told, true) {
                        self.state().silent -= 1;
                    }
                }
                Ok(Event::Apply(secret)) => {
                    self.is_at((secret.namespace().unwrap_or_default(), secret.name_any()), secret.resource_version());
                }
                Ok(Event::Delete(secret)) => {
                    self.is_at((secret.namespace().unwrap_or_default(), secret.name_any()), None);
                }
                Err(error) => tracing::warn!(%error, "watching Secrets again"),
            }
        }
    }

    fn keep(&self, namespace: Option<&str>, listed: &HashSet<Place>) {
        let here = |place: &Place| namespace.is_none_or(|namespace| place.0 == namespace);
        let known: Vec<_> = self.state().versions.keys().filter(|place| here(place)).cloned().collect();
        for place in known.into_iter().filter(|place| !listed.contains(place)) {
            self.is_at(place, None);
        }
    }

    fn is_at(&self, place: Place, version: Option<String>) {
        let mut state = self.state();
        let before = match version.clone() {
            Some(version) => state.versions.insert(place.clone(), version),
            None => state.versions.remove(&place),
        };
        if before != version {
            for user in state.users.get(&place).into_iter().flatten() {
                self.watched.nudge(user);
            }
        }
    }

    /// A Secret that a service uses, if it is there.
    pub async fn get(&self, service: &ServiceKey, name: &str) -> kube::Result<Option<FoundSecret>> {
        let place = (service.namespace.clone(), name.to_owned());
        let known = {
            let mut state = self.state();
            state.users.entry(place.clone()).or_default().insert(service.clone());
            let version = state.versions.get(&place);
            state.read.get(&place).filter(|(at, _)| Some(at) == version).map(|(_, found)| found.clone())
        };
        if known.is_some() || self.is_missing(&place) {
            return Ok(known);
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &service.namespace);
        let Some(secret) = secrets.get_opt(name).await? else { return Ok(None) };
        let version = secret.resource_version().unwrap_or_default();
        let found = FoundSecret::of(secret);
        self.state().read.insert(place, (version, found.clone()));
        Ok(Some(found))
    }

    /// Whether the watch would have told of it.
    fn is_missing(&self, place: &Place) -> bool {
        let state = self.state();
        state.silent == 0 && !state.versions.contains_key(place)
    }

    /// A service is gone.
    pub fn forget(&self, service: &ServiceKey) {
        let mut state = self.state();
        state.users.retain(|_, users| {
            users.remove(service);
            !users.is_empty()
        });
        let State { read, users, .. } = &mut *state;
        read.retain(|place, _| users.contains_key(place));
    }
}
