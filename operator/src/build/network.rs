//! Who may speak to whom: nobody, but for what is needed.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Plan;
use super::names::{Component, Names, PARTITION};
use super::pods::{HTTP, METRICS};
use super::redis::PORT as REDIS;
use super::shards::ShardSource;
use crate::api::common::NetworkPolicies;
use crate::kind::ServiceKind;

const POSTGRES: i32 = 5432;
/// CloudNativePG's operator asks its instances here.
const INSTANCE_STATUS: i32 = 8000;
/// Metrics of CloudNativePG's instances.
const INSTANCE_METRICS: i32 = 9187;
/// The label of CloudNativePG's pods.
const CLUSTER: &str = "cnpg.io/cluster";

/// The policies of a service; none if it wants none.
pub fn policies<K: ServiceKind>(plan: &Plan<'_, K>) -> Vec<NetworkPolicy> {
    if plan.service.service().network_policies == NetworkPolicies::None {
        return Vec::new();
    }
    let names = &plan.names;
    let mut policies = vec![gateway(plan), of_jobs(plan, Component::Init), of_jobs(plan, Component::Mover)];
    policies.extend(plan.service.stateless().map(|each| stateless(plan, each.name)));
    policies.extend(plan.service.own_redis().map(|_| cache(names)));
    policies.extend(plan.shards.iter().map(|shard| worker(plan, shard)));
    policies.extend(plan.shards.iter().filter_map(|shard| database(names, shard)));
    policies
}

fn gateway<K: ServiceKind>(plan: &Plan<'_, K>) -> NetworkPolicy {
    let names = &plan.names;
    let ingress = vec![from_anywhere(&[HTTP, METRICS])];
    let mut egress = vec![dns(), to(vec![pods(names.selector(Component::Worker))], &[HTTP])];
    egress.push(kafka(plan));
    egress.extend(redis(plan));
    policy(names, names.gateway(), Component::Gateway, names.selector(Component::Gateway), ingress, Some(egress))
}

fn worker<K: ServiceKind>(plan: &Plan<'_, K>, shard: &ShardSource) -> NetworkPolicy {
    let names = &plan.names;
    let ingress = vec![from(vec![pods(names.selector(Component::Gateway))], &[HTTP]), from_anywhere(&[METRICS])];
    let egress = vec![dns(), kafka(plan), postgres(std::slice::from_ref(shard))];
    let (name, selector) = (names.worker(shard.partition), of_partition(names, shard.partition));
    policy(names, name, Component::Worker, selector, ingress, Some(egress))
}

fn stateless<K: ServiceKind>(plan: &Plan<'_, K>, name: &str) -> NetworkPolicy {
    let names = &plan.names;
    let ingress = vec![from_anywhere(&[METRICS])];
    let egress = [dns(), kafka(plan)].into_iter().chain(redis(plan)).collect();
    let selector = names.selector(Component::Stateless);
    policy(names, names.stateless(name), Component::Stateless, selector, ingress, Some(egress))
}

/// Jobs that prepare shards, or move slots between them.
fn of_jobs<K: ServiceKind>(plan: &Plan<'_, K>, part: Component) -> NetworkPolicy {
    let names = &plan.names;
    let egress = vec![dns(), kafka(plan), postgres(&plan.shards)];
    let name = format!("{}-{}", names.service, part.label());
    let ingress = vec![from_anywhere(&[METRICS])];
    policy(names, name, part, names.selector(part), ingress, Some(egress))
}

/// A shard is for its own worker, for whoever prepares it or moves its slots, and for CloudNativePG.
fn database(names: &Names, shard: &ShardSource) -> Option<NetworkPolicy> {
    let cluster = BTreeMap::from([(CLUSTER.to_owned(), shard.cluster.clone()?)]);
    let jobs = [Component::Init, Component::Mover].map(|part| names.selector(part));
    let users: Vec<_> =
        [of_partition(names, shard.partition), cluster.clone()].into_iter().chain(jobs).map(pods).collect();
    let ingress = vec![from(users, &[POSTGRES]), from_anywhere(&[INSTANCE_STATUS, INSTANCE_METRICS])];
    Some(policy(names, names.shard(shard.partition), Component::Shard, cluster, ingress, None))
}

/// Redis is for those that read and fill it, and asks nobody.
fn cache(names: &Names) -> NetworkPolicy {
    let users = [Component::Gateway, Component::Stateless].map(|part| pods(names.selector(part)));
    let ingress = vec![from(users.to_vec(), &[REDIS])];
    policy(names, names.redis(), Component::Cache, names.selector(Component::Cache), ingress, Some(Vec::new()))
}

fn of_partition(names: &Names, partition: u32) -> BTreeMap<String, String> {
    let mut selector = names.selector(Component::Worker);
    selector.insert(PARTITION.to_owned(), partition.to_string());
    selector
}

fn policy(
    names: &Names,
    name: String,
    part: Component,
    selector: BTreeMap<String, String>,
    ingress: Vec<NetworkPolicyIngressRule>,
    egress: Option<Vec<NetworkPolicyEgressRule>>,
) -> NetworkPolicy {
    let mut types = vec!["Ingress".to_owned()];
    types.extend(egress.is_some().then(|| "Egress".to_owned()));
    NetworkPolicy {
        metadata: names.meta(name, names.labels(part)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labelled(selector)),
            ingress: (!ingress.is_empty()).then_some(ingress),
            egress,
            policy_types: Some(types),
        }),
    }
}

/// Kafka's brokers. Those of somebody else say themselves where they are, so nothing can be said of them here.
fn kafka<K: ServiceKind>(plan: &Plan<'_, K>) -> NetworkPolicyEgressRule {
    match &plan.service.service().kafka.strimzi {
        Some(strimzi) => {
            // Brokers alone; other pods of the Kafka have its other labels too.
            let name = format!("{}-kafka", strimzi.cluster);
            let labels = [("strimzi.io/cluster", &*strimzi.cluster), ("strimzi.io/name", &name)];
            let brokers = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            to(vec![pods(brokers.into())], &[])
        }
        None => NetworkPolicyEgressRule::default(),
    }
}

/// The service's Redis. One of somebody else's may be anywhere.
fn redis<K: ServiceKind>(plan: &Plan<'_, K>) -> Option<NetworkPolicyEgressRule> {
    Some(match plan.service.redis()?.external {
        Some(_) => NetworkPolicyEgressRule::default(),
        None => to(vec![pods(plan.names.selector(Component::Cache))], &[REDIS]),
    })
}

/// Shards. Those of somebody else may be anywhere.
fn postgres(shards: &[ShardSource]) -> NetworkPolicyEgressRule {
    let cluster = |shard: &ShardSource| Some(pods(BTreeMap::from([(CLUSTER.to_owned(), shard.cluster.clone()?)])));
    match shards.iter().map(cluster).collect::<Option<Vec<_>>>() {
        Some(clusters) => to(clusters, &[POSTGRES]),
        None => NetworkPolicyEgressRule::default(),
    }
}

fn dns() -> NetworkPolicyEgressRule {
    let port = |protocol: &str| NetworkPolicyPort { protocol: Some(protocol.to_owned()), ..tcp(53) };
    NetworkPolicyEgressRule { ports: Some(vec![port("UDP"), port("TCP")]), to: None }
}

fn from(peers: Vec<NetworkPolicyPeer>, ports: &[i32]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { from: Some(peers), ports: some(ports) }
}

fn from_anywhere(ports: &[i32]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { from: None, ports: some(ports) }
}

fn to(peers: Vec<NetworkPolicyPeer>, ports: &[i32]) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to: Some(peers), ports: some(ports) }
}

fn some(ports: &[i32]) -> Option<Vec<NetworkPolicyPort>> {
    (!ports.is_empty()).then(|| ports.iter().map(|port| tcp(*port)).collect())
}

fn tcp(port: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}

fn pods(labels: BTreeMap<String, String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(labelled(labels)), ..NetworkPolicyPeer::default() }
}

fn labelled(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}
