//! Which service has which topics: of two that want the same, the elder has it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;

use crate::build::topics::Topic;
use crate::watched::ServiceKey;

/// Since when a resource is there, to the second; of those of one second, who already runs; and its uid, so that no two are alike.
/// The elder comes first.
type Age = (Option<Timestamp>, Reverse<bool>, String);

/// Who claims.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// Since when the resource is there.
    pub since: Option<Timestamp>,
    /// Whether it has partitions already.
    pub runs: bool,
    /// Its uid.
    pub uid: &'a str,
}

#[derive(Default)]
struct State {
    claims: HashMap<Topic, BTreeMap<Age, ServiceKey>>,
    /// What each resource claims.
    of: HashMap<ServiceKey, (Age, Vec<Topic>)>,
}

/// The claims of all services.
#[derive(Default)]
pub struct Claims(Mutex<State>);

impl Claims {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A service, as it is now, wants these.
    pub fn note(&self, service: ServiceKey, claimant: Claimant<'_>, topics: Vec<Topic>) {
        let mut state = self.state();
        forget(&mut state, &service);
        let age = (claimant.since, Reverse(claimant.runs), claimant.uid.to_owned());
        for topic in &topics {
            state.claims.entry(topic.clone()).or_default().insert(age.clone(), service.clone());
        }
        state.of.insert(service, (age, topics));
    }

    /// A service is gone.
    pub fn forget(&self, service: &ServiceKey) {
        forget(&mut self.state(), service);
    }

    /// A topic that an elder service has, and that service.
    pub fn rival(&self, service: &ServiceKey) -> Option<(String, ServiceKey)> {
        let state = self.state();
        let (_, topics) = state.of.get(service)?;
        topics.iter().find_map(|topic| {
            let (_, first) = state.claims.get(topic)?.first_key_value()?;
            (first != service).then(|| (topic.name.clone(), first.clone()))
        })
    }
}

fn forget(state: &mut State, service: &ServiceKey) {
    let Some((age, topics)) = state.of.remove(service) else { return };
    for topic in topics {
        if let Some(claimants) = state.claims.get_mut(&topic) {
            claimants.remove(&age);
            if claimants.is_empty() {
                state.claims.remove(&topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceKey {
        ServiceKey { namespace: "shop".to_owned(), kind: "SignupShard".to_owned(), name: name.to_owned() }
    }

    fn topic(kafka: &str, name: &str) -> Topic {
        Topic { kafka: kafka.to_owned(), name: name.to_owned() }
    }

    fn claimant(second: i64, runs: bool, uid: &str) -> Claimant<'_> {
        Claimant { since: Some(Timestamp::from_second(second).unwrap()), runs, uid }
    }

    #[test]
    fn of_two_of_one_second_who_runs_already_has_it() {
        let claims = Claims::default();
        let topics = || vec![topic("k", "shared")];
        claims.note(service("first"), claimant(1, false, "2"), topics());
        claims.note(service("first"), claimant(1, true, "2"), topics());
        claims.note(service("second"), claimant(1, false, "1"), topics());
        assert_eq!(claims.rival(&service("first")), None);
        assert_eq!(claims.rival(&service("second")), Some(("shared".to_owned(), service("first"))));
    }

    #[test]
    fn the_elder_has_a_topic_and_the_younger_gets_it_when_that_one_goes() {
        let claims = Claims::default();
        let at = |second, uid| claimant(second, false, uid);
        // Told of in any order.
        claims.note(service("younger"), at(2, "1"), vec![topic("k", "own"), topic("k", "shared")]);
        assert_eq!(claims.rival(&service("younger")), None);
        claims.note(service("elder"), at(1, "2"), vec![topic("k", "shared")]);
        assert_eq!(claims.rival(&service("younger")), Some(("shared".to_owned(), service("elder"))));
        assert_eq!(claims.rival(&service("elder")), None);
        claims.note(service("elsewhere"), at(3, "3"), vec![topic("another", "shared")]);
        assert_eq!(claims.rival(&service("elsewhere")), None);
        claims.forget(&service("elder"));
        assert_eq!(claims.rival(&service("younger")), None);
    }
}
