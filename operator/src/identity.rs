//! The identity of a service's data: a ConfigMap that outlives the custom resource, so that a re-created one takes up
//! its shards. It fixes the first number of partitions before a slot is written, and says what is being moved.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;

use crate::api::common::DeletionPolicy;
use crate::build::Plan;
use crate::build::names::{Component, Names};
use crate::kind::ServiceKind;

/// Identity and size of what is in the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Written into every shard; a shard with another one is foreign.
    pub service_id: String,
    /// How many shards there are; during a move the larger of both numbers.
    pub partitions: u32,
    /// How many of them owned slots when everything was last settled.
    pub from: u32,
    /// How many of them are to own slots.
    pub target: u32,
    /// Rises with each new target.
    pub plan: u32,
    /// Whether slots lie as the target wants, and nothing is left of the move.
    pub settled: bool,
    /// Number of slots.
    pub max_partitions: u32,
    /// What else of the spec the data depends on, as a text to compare: hash, topics, the kind's own. Empty: not recorded
    /// yet.
    pub fixed: String,
    /// Whether every slot was placed once: a shard that is empty after that is a lost one.
    pub placed: bool,
}

/// Why a ConfigMap is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ConfigMap {name} has no valid {key:?}; restore it from a backup, for it says whose the shards are")]
pub struct BrokenIdentity {
    name: String,
    key: &'static str,
}

const SERVICE_ID: &str = "serviceId";
const PARTITIONS: &str = "partitions";
const FROM: &str = "from";
const TARGET: &str = "target";
const PLAN: &str = "plan";
const SETTLED: &str = "settled";
const MAX_PARTITIONS: &str = "maxPartitions";
const FIXED: &str = "fixed";
const PLACED: &str = "placed";

impl Identity {
    /// Of a new service: its slots will lie in all of its shards, so there is nothing to move.
    pub fn first(service_id: String, partitions: u32, max_partitions: u32, fixed: String) -> Self {
        let (from, target) = (partitions, partitions);
        Self { service_id, partitions, from, target, plan: 0, settled: true, max_partitions, fixed, placed: false }
    }

    /// What follows, given how many partitions are wanted, and whether the mover has done all of the present plan.
    ///
    /// There are never fewer shards than before unless everything has been moved off those that go.
    pub fn next(&self, wanted: u32, moved: bool) -> Self {
        let mut next = self.clone();
        if !next.settled && moved {
            next.settled = true;
            (next.partitions, next.from) = (next.target, next.target);
        }
        if next.target != wanted {
            next.settled = false;
            next.target = wanted;
            next.plan += 1;
            next.partitions = next.partitions.max(wanted);
        }
        next
    }

    /// Reads it from its ConfigMap.
    pub fn read(map: &ConfigMap) -> Result<Self, BrokenIdentity> {
        let broken = |key| BrokenIdentity { name: map.metadata.name.clone().unwrap_or_default(), key };
        let data = map.data.as_ref();
        let text = |key| data.and_then(|data| data.get(key)).filter(|text| !text.is_empty()).ok_or(broken(key));
        let number = |key| text(key)?.parse().map_err(|_| broken(key));
        // What older versions have not written says that nothing was ever moved.
        let newer = |key, older| if data.is_some_and(|data| data.contains_key(key)) { number(key) } else { Ok(older) };
        let partitions = number(PARTITIONS)?;
        Ok(Self {
            service_id: text(SERVICE_ID)?.clone(),
            partitions,
            from: newer(FROM, partitions)?,
            target: newer(TARGET, partitions)?,
            plan: newer(PLAN, 0)?,
            settled: data.is_none_or(|data| data.get(SETTLED).is_none_or(|settled| settled != "false")),
            max_partitions: number(MAX_PARTITIONS)?,
            fixed: data.and_then(|data| data.get(FIXED)).cloned().unwrap_or_default(),
            placed: data.is_some_and(|data| data.get(PLACED).is_some_and(|placed| placed == "true")),
        })
    }

    /// Its ConfigMap, as it is first written: it outlives the service until the policy has been applied.
    pub fn first_config_map(&self, names: &Names) -> ConfigMap {
        self.map(names.lasting_meta(names.identity(), names.labels(Component::Config)))
    }

    /// Its ConfigMap, as the policy wants it.
    pub fn config_map<K: ServiceKind>(&self, plan: &Plan<'_, K>) -> ConfigMap {
        let names = &plan.names;
        match plan.service.service().deletion_policy {
            DeletionPolicy::Retain => self.first_config_map(names),
            DeletionPolicy::Delete => self.map(names.meta(names.identity(), names.labels(Component::Config))),
        }
    }

    fn map(&self, metadata: ObjectMeta) -> ConfigMap {
        let data = BTreeMap::from([
            (SERVICE_ID.to_owned(), self.service_id.clone()),
            (PARTITIONS.to_owned(), self.partitions.to_string()),
            (FROM.to_owned(), self.from.to_string()),
            (TARGET.to_owned(), self.target.to_string()),
            (PLAN.to_owned(), self.plan.to_string()),
            (SETTLED.to_owned(), self.settled.to_string()),
            (MAX_PARTITIONS.to_owned(), self.max_partitions.to_string()),
            (FIXED.to_owned(), self.fixed.clone()),
            (PLACED.to_owned(), self.placed.to_string()),
        ]);
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> ConfigMap {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        map.metadata.name = Some("demo-identity".to_owned());
        map
    }

    #[test]
    fn an_identity_is_read_back() {
        let identity =
            Identity { placed: true, ..Identity::first("x".to_owned(), 2, 24, "f".to_owned()) }.next(4, false);
        let names = Names {
            service: "demo".to_owned(),
            namespace: "shop".to_owned(),
            kind: "X".to_owned(),
            owner: Default::default(),
        };
        assert_eq!(Identity::read(&identity.first_config_map(&names)).unwrap(), identity);
    }

    #[test]
    fn one_that_an_older_version_wrote_has_nothing_to_move() {
        let pairs =
            [("serviceId", "x"), ("partitions", "3"), ("maxPartitions", "24"), ("fixed", "f"), ("placed", "true")];
        let expected = Identity { placed: true, ..Identity::first("x".to_owned(), 3, 24, "f".to_owned()) };
        assert_eq!(Identity::read(&map(&pairs)).unwrap(), expected);
    }

    fn of(partitions: u32, from: u32, target: u32, plan: u32, settled: bool) -> Identity {
        let first = Identity::first("x".to_owned(), 1, 8, String::new());
        Identity { partitions, from, target, plan, settled, ..first }
    }

    #[test]
    fn up_makes_shards_first_and_down_takes_them_away_last() {
        let settled = of(2, 2, 2, 0, true);
        assert_eq!(settled.next(2, false), settled, "nothing is to be done");
        assert_eq!(settled.next(2, true), settled, "an old success has nothing to say");
        let up = settled.next(4, false);
        assert_eq!(up, of(4, 2, 4, 1, false));
        assert_eq!(up.next(4, false), up);
        let grown = up.next(4, true);
        assert_eq!(grown, of(4, 4, 4, 1, true));
        let down = grown.next(1, false);
        assert_eq!(down, of(4, 4, 1, 2, false));
        assert_eq!(down.next(1, true), of(1, 1, 1, 2, true));
    }

    #[test]
    fn another_target_on_the_way_is_a_plan_of_its_own() {
        let up = of(2, 2, 2, 0, true).next(4, false);
        assert_eq!(up.next(3, false), of(4, 2, 3, 2, false), "some of the four may hold slots by now");
        assert_eq!(up.next(2, false), of(4, 2, 2, 2, false), "taken back");
        assert_eq!(up.next(6, false), of(6, 2, 6, 2, false));
        assert_eq!(up.next(3, true), of(4, 4, 3, 2, false), "the first was done when the second was seen");
        assert_eq!(of(4, 4, 2, 1, false).next(3, true), of(3, 2, 3, 2, false));
    }

    #[test]
    fn no_shard_goes_before_everything_was_moved_off_it() {
        let mut all = vec![of(2, 2, 2, 0, true)];
        for _ in 0..4 {
            let steps = |now: &Identity| {
                let steps = (1..4).flat_map(|wanted| [false, true].map(|moved| (wanted, moved)));
                steps.map(|(wanted, moved)| (wanted, moved, now.next(wanted, moved))).collect::<Vec<_>>()
            };
            for now in std::mem::take(&mut all) {
                for (wanted, moved, next) in steps(&now) {
                    assert_eq!(next.target, wanted);
                    assert!(next.partitions >= next.target && next.partitions >= next.from, "{now:?} {next:?}");
                    assert!(next.plan >= now.plan && (next.plan > now.plan) == (next.target != now.target));
                    let fewer = next.partitions < now.partitions;
                    assert!(!fewer || (moved && !now.settled && next.partitions >= now.target), "{now:?} {next:?}");
                    assert!(!next.settled || (next.partitions, next.from) == (wanted, wanted), "{next:?}");
                    all.push(next);
                }
            }
        }
    }

    #[test]
    fn a_broken_one_says_which_map_and_what_to_do() {
        let error = Identity::read(&map(&[("serviceId", "x"), ("partitions", "three")])).unwrap_err().to_string();
        assert!(error.contains("demo-identity") && error.contains("partitions") && error.contains("backup"), "{error}");
        let pairs = [("serviceId", "x"), ("partitions", "3"), ("target", "many"), ("maxPartitions", "24")];
        let error = Identity::read(&map(&pairs)).unwrap_err().to_string();
        assert!(error.contains("target"), "{error}");
    }
}
