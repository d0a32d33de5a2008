//! What the API server tells of all services' objects, cut down to what turns need. Turns read from here, so that a service in
//! which nothing changes asks nothing of the API server.

mod seen;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Resource;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

pub use seen::{Fingerprint, Seen};
pub use streams::{Scope, Streams};

/// A service of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// An object of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The objects of one service, as they were last told.
#[derive(Clone, Debug, Default)]
pub struct Objects(BTreeMap<ObjectKey, Arc<Seen>>);

impl FromIterator<(ObjectKey, Seen)> for Objects {
    fn from_iter<I: IntoIterator<Item = (ObjectKey, Seen)>>(objects: I) -> Self {
        Self(objects.into_iter().map(|(key, seen)| (key, Arc::new(seen))).collect())
    }
}

impl Objects {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Seen)> {
        self.0.iter().map(|(key, seen)| (key, &**seen))
    }

    /// One of them.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Seen> {
        self.0.get(&ObjectKey { kind: kind.to_owned(), name: name.to_owned() }).map(|seen| &**seen)
    }

    /// Those of a type, by name; without their specs.
    pub fn of<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> BTreeMap<String, K> {
        let kind = K::kind(&());
        let typed = |(key, seen): (&ObjectKey, &Seen)| Some((key.name.clone(), seen.typed()?));
        self.iter().filter(|(key, _)| key.kind == kind).filter_map(typed).collect()
    }
}

/// What was sent when an object was last applied, and what it then was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Of what was sent.
    pub wanted: Fingerprint,
    /// Of the object that the API server answered with.
    pub became: Fingerprint,
}

/// One watch: a type, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Watch {
    kind: String,
    namespace: Option<String>,
}

#[derive(Default)]
struct State {
    services: HashMap<ServiceKey, Record>,
    /// What a watch has listed since it began to list anew.
    listed: HashMap<Watch, HashSet<(ServiceKey, ObjectKey)>>,
    /// Watches that have not told yet what there is.
    silent: HashSet<Watch>,
    /// Watches of types that the API server does not know.
    unknown: HashSet<Watch>,
    /// Who wants to know of changes, by kind of service.
    listeners: HashMap<String, Vec<mpsc::UnboundedSender<ServiceKey>>>,
}

#[derive(Default)]
struct Record {
    objects: Objects,
    applied: HashMap<ObjectKey, Applied>,
}

/// What the API server has told.
pub struct Watched {
    state: Mutex<State>,
    silent: watch::Sender<usize>,
}

impl Default for Watched {
    fn default() -> Self {
        Self { state: Mutex::default(), silent: watch::Sender::new(0) }
    }
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects of a service.
    pub fn objects(&self, service: &ServiceKey) -> Objects {
        self.state().services.get(service).map(|record| record.objects.clone()).unwrap_or_default()
    }

    /// Whether the API server knows a type, in the place where a service lies.
    pub fn knows(&self, kind: &str, namespace: &str) -> bool {
        let all = |watch: &Watch| watch.namespace.as_deref().is_none_or(|watched| watched == namespace);
        !self.state().unknown.iter().any(|watch| watch.kind == kind && all(watch))
    }

    /// What was applied of an object last, if it is still there.
    pub fn applied(&self, service: &ServiceKey, object: &ObjectKey) -> Option<Applied> {
        self.state().services.get(service)?.applied.get(object).copied()
    }

    /// Notes what an object became.
    pub fn note(&self, service: &ServiceKey, object: ObjectKey, applied: Applied) {
        self.state().services.entry(service.clone()).or_default().applied.insert(object, applied);
    }

    /// Services of a kind of which something has changed.
    pub fn listen(&self, kind: &str) -> mpsc::UnboundedReceiver<ServiceKey> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().listeners.entry(kind.to_owned()).or_default().push(sender);
        receiver
    }

    /// Has a service looked at.
    pub fn nudge(&self, service: &ServiceKey) {
        tell(&mut self.state(), service);
    }

    /// Waits until every watch has told once what there is.
    pub async fn complete(&self) {
        // The sender lives as long as this.
        let _ = self.silent.subscribe().wait_for(|silent| *silent == 0).await;
    }

    fn expect(&self, watch: &Watch) {
        let mut state = self.state();
        state.silent.insert(watch.clone());
        self.silent.send_replace(state.silent.len());
    }

    fn has_told(&self, state: &mut State, watch: &Watch) {
        if state.silent.remove(watch) {
            self.silent.send_replace(state.silent.len());
        }
    }

    fn begins(&self, watch: &Watch) {
        self.state().listed.insert(watch.clone(), HashSet::new());
    }

    fn seen(&self, watch: &Watch, service: ServiceKey, object: ObjectKey, seen: Seen) {
        let mut state = self.state();
        if let Some(listed) = state.listed.get_mut(watch) {
            listed.insert((service.clone(), object.clone()));
        }
        state.services.entry(service.clone()).or_default().objects.0.insert(object, Arc::new(seen));
        tell(&mut state, &service);
    }

    fn gone(&self, service: &ServiceKey, object: &ObjectKey) {
        let mut state = self.state();
        remove(&mut state, service, object);
        tell(&mut state, service);
    }

    /// A list is complete: what it lacks is gone.
    fn ends(&self, watch: &Watch) {
        let mut state = self.state();
        let listed = state.listed.remove(watch).unwrap_or_default();
        let here = |service: &ServiceKey| watch.namespace.as_ref().is_none_or(|watched| *watched == service.namespace);
        let lost: Vec<_> = state
            .services
            .iter()
            .filter(|(service, _)| here(service))
            .flat_map(|(service, record)| record.objects.0.keys().map(move |object| (service.clone(), object.clone())))
            .filter(|(service, object)| {
                object.kind == watch.kind && !listed.contains(&(service.clone(), object.clone()))
            })
            .collect();
        for (service, object) in lost {
            remove(&mut state, &service, &object);
            tell(&mut state, &service);
        }
        state.unknown.remove(watch);
        self.has_told(&mut state, watch);
    }

    fn is_unknown(&self, watch: &Watch) {
        let mut state = self.state();
        state.unknown.insert(watch.clone());
        self.has_told(&mut state, watch);
    }
}

fn remove(state: &mut State, service: &ServiceKey, object: &ObjectKey) {
    if let Some(record) = state.services.get_mut(service) {
        record.objects.0.remove(object);
        record.applied.remove(object);
        if record.objects.0.is_empty() && record.applied.is_empty() {
            state.services.remove(service);
        }
    }
}

fn tell(state: &mut State, service: &ServiceKey) {
    if let Some(listeners) = state.listeners.get_mut(&service.kind) {
        listeners.retain(|listener| listener.send(service.clone()).is_ok());
    }
}

#[cfg(test)]
mod tests;
