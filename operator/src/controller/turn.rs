//! One turn for one service: what is there is read, what should be there is applied, and what that gives is said.

use std::collections::BTreeMap;

use kube::{Client, ResourceExt};

use super::apply::{apply, delete_all, orphans};
use super::dereference::{self, Found, dereference};
use super::rollout::{self, Step};
use super::status::{Facts, status};
use super::validate::{self, Obstacle};
use super::{Context, ReconcileError, farewell, reshard};
use crate::api::status::ServiceStatus;
use crate::build::kafka::{self, Kafka};
use crate::build::names::{Component, Names, TEMPLATE};
use crate::build::{self, BuildError, Object, Plan, redis, shards};
use crate::identity::Identity;
use crate::images::Images;
use crate::kind::ServiceKind;
use crate::watched::Objects;

/// What a turn found and did.
#[derive(Default)]
struct Turn {
    identity: Option<Identity>,
    shards: Vec<shards::ShardSource>,
    found: Found,
    init_job: Option<String>,
    obstacle: Option<Obstacle>,
    /// What stands in the way of shards that are to be filled.
    joining: Option<Obstacle>,
    /// The present plan's Job.
    mover: Option<String>,
    /// A worker whose turn to be changed has not come.
    waits: Option<String>,
}

impl Turn {
    fn stopped(obstacle: Obstacle) -> Self {
        Self { obstacle: Some(obstacle), ..Self::default() }
    }
}

/// A Kafka, and whether Strimzi asks who may do what there.
struct Reached {
    kafka: Kafka,
    acls: bool,
}

/// One turn. Gives what is to be said.
pub async fn turn<K: ServiceKind>(context: &Context, service: &K) -> Result<ServiceStatus, ReconcileError> {
    let names = names_of(service)?;
    let there = context.watched.objects(&names.key());
    let spec = service.service();
    let turn = go(context, service, &names, &there).await.or_else(|error| refused(error).map(Turn::stopped))?;
    let facts = Facts {
        generation: service.meta().generation,
        names: &names,
        identity: turn.identity.as_ref(),
        shards: &turn.shards,
        found: &turn.found,
        init_job: turn.init_job.as_deref(),
        gateways: spec.gateway.replicas,
        stateless: service.stateless(),
        redis: service.own_redis().is_some(),
        obstacle: turn.obstacle,
        joining: turn.joining,
        mover: turn.mover.as_deref(),
        rolling: turn.waits,
        paused: spec.paused,
        image: Some(default_image(service, &context.images)),
        redis_image: service.own_redis().map(|_| default_redis_image(service, &context.images)),
    };
    Ok(status(&facts, service.status()))
}

async fn go<K: ServiceKind>(
    context: &Context,
    service: &K,
    names: &Names,
    there: &Objects,
) -> Result<Turn, ReconcileError> {
    let spec = service.service();
    let fixed = service.fixed().map_err(BuildError::from)?;
    let stands_in_the_way = validate::remains(names, there)
        .or_else(|| validate::namesake(names, |other| context.watched.objects(other)))
        .or_else(|| validate::rival(context.claims.rival(&names.key())));
    if let Some(obstacle) = stands_in_the_way {
        return Ok(Turn::stopped(obstacle));
    }
    let identity = match dereference::identity(names, there) {
        Some(Err(broken)) => {
            let message = broken.to_string();
            return Ok(Turn::stopped(Obstacle { reason: "IdentityBroken", message, passes: false }));
        }
        Some(Ok(identity)) => identity,
        None if spec.paused => return Ok(Turn::default()),
        None => {
            let id = uuid::Uuid::new_v4().to_string();
            let identity = Identity::first(id, spec.partitions, spec.max_partitions, fixed);
            // Created, never applied: of two operators at once, the second must find the first one's. The watch tells of it.
            dereference::record(&context.client, names, &identity.first_config_map(names)).await?;
            let message = "the service is given its identity".to_owned();
            return Ok(Turn::stopped(Obstacle { reason: "Preparing", message, passes: true }));
        }
    };
    if let Err(obstacle) = validate::identity(spec, &fixed, &identity) {
        return Ok(Turn::stopped(obstacle));
    }
    make(context, service, names, there, Identity { fixed, ..identity }).await
}

/// Makes everything that a service with this identity consists of, as far as it can be made.
async fn make<K: ServiceKind>(
    context: &Context,
    service: &K,
    names: &Names,
    there: &Objects,
    identity: Identity,
) -> Result<Turn, ReconcileError> {
    let spec = service.service();
    let mut found = dereference(&context.http, &context.watched, names, there).await;
    let reached = reach(&context.client, &context.watched, service, names).await?;
    let (kafka, acls) = match &reached {
        Ok(reached) => (reached.kafka.clone(), reached.acls),
        Err(_) => (Kafka::default(), false),
    };
    let of_kafka: Vec<_> = kafka::parts(service).flat_map(|part| kafka.secrets(names, part)).collect();
    let named = named_secrets(service);
    let by_name = || of_kafka.iter().chain(named.iter().map(|named| &named.secret));
    found.secrets = dereference::secrets(&context.secrets, names, by_name().map(|(name, _)| &**name)).await?;
    let mut plan = Plan {
        service,
        names: names.clone(),
        credentials: credentials(&kafka, service, names, &found, &named),
        kafka,
        acls,
        shards: shards::sources(names, &spec.postgres, identity.partitions),
        identity,
        image: image_of(service, &context.images),
        redis_image: redis_image_of(service, &context.images),
        images: &context.images,
    };
    // An init Job of this service has succeeded at some time: from now on, an empty shard is a lost one.
    plan.identity.placed |= found.jobs.values().any(dereference::has_succeeded);
    read_shards(context, names, &mut plan.shards, &mut found).await?;
    if !spec.paused {
        plan.identity = reshard::next(&plan, &found)?;
        plan.shards = shards::sources(names, &spec.postgres, plan.identity.partitions);
        read_shards(context, names, &mut plan.shards, &mut found).await?;
    }
    let (standing, joining) = reshard::split(&plan.identity, &plan.shards);
    let obstacle = reached.err().or_else(|| validate::shards(standing, &found).err());
    let obstacle = obstacle.or_else(|| validate::secrets(&found, by_name()).err());
    let obstacle = obstacle.or_else(|| validate::strimzi(&found));
    let joining = validate::going(joining, there).or_else(|| validate::shards(joining, &found).err());
    let mut turn = Turn { shards: plan.shards.clone(), found, obstacle, joining, ..Turn::default() };
    if spec.paused {
        reshard::hold(context, names, &turn.found).await?;
    } else {
        write(context, &plan, there, &mut turn).await?;
    }
    turn.identity = Some(plan.identity);
    Ok(turn)
}

/// Reads the Secrets by which shards are reached.
async fn read_shards(
    context: &Context,
    names: &Names,
    shards: &mut [shards::ShardSource],
    found: &mut Found,
) -> kube::Result<()> {
    let named = shards.iter().map(|shard| &*shard.secret);
    found.secrets.extend(dereference::secrets(&context.secrets, names, named).await?);
    for shard in shards {
        shard.version = found.secrets.get(&shard.secret).map(|secret| secret.version(&["uri"]));
    }
    Ok(())
}

/// Applies what can be applied now.
async fn write<K: ServiceKind>(
    context: &Context,
    plan: &Plan<'_, K>,
    there: &Objects,
    turn: &mut Turn,
) -> Result<(), ReconcileError> {
    let (client, watched, names) = (&context.client, &context.watched, &plan.names);
    // Bound before the first topic is made, and freed whatever stands in the way.
    let bound = farewell::is_needed(plan.service);
    if bound != farewell::is_bound(plan.service.meta()) && (turn.obstacle.is_none() || !bound) {
        farewell::bind::<K>(context, plan.service.meta(), bound).await?;
    }
    let mut wanted = build::foundation(plan)?;
    // First, and only from what it was seen to be: what is made or deleted after it depends on it.
    let identity = names.identity();
    for object in wanted.iter_mut().filter(|object| object.object.metadata.name.as_ref() == Some(&identity)) {
        let seen = there.get("ConfigMap", &identity).and_then(|seen| seen.metadata.resource_version.clone());
        object.object.metadata.resource_version = seen;
    }
    if turn.obstacle.is_some() {
        // What the API server does not know cannot be applied.
        wanted.retain(|object| watched.knows(&object.resource.kind, &names.namespace));
        return apply(client, watched, names, &wanted).await;
    }
    wanted.extend(build::processes(plan)?);
    if turn.joining.is_some() {
        let wanted = reshard::without_joining(wanted, &plan.identity);
        let (now, waits) = in_turn(wanted, &turn.found, false);
        turn.waits = waits;
        return apply(client, watched, names, &now).await;
    }
    let job = wanted.iter().find(|object| object.resource.kind == "Job");
    turn.init_job = job.and_then(|job| job.object.metadata.name.clone());
    let job = turn.init_job.as_ref().and_then(|name| turn.found.jobs.get(name));
    let prepared = job.is_some_and(dereference::has_succeeded);
    let (now, waits) = in_turn(wanted.clone(), &turn.found, prepared);
    apply(client, watched, names, &now).await?;
    turn.mover = reshard::drive(context, plan, there, &turn.found, prepared).await?;
    let orphans = orphans(names, there, &wanted);
    // What the watch has told may be old. That a shard is no longer needed is only believed of what is so just now.
    if !orphans.is_empty() && dereference::recorded_partitions(client, names).await? != Some(plan.identity.partitions) {
        return Err(ReconcileError::Stale);
    }
    delete_all(client, &context.types, names, &orphans).await?;
    turn.waits = waits;
    Ok(())
}

/// What may be applied now, and the first worker that has to wait.
fn in_turn(wanted: Vec<Object>, found: &Found, prepared: bool) -> (Vec<Object>, Option<String>) {
    let workers: Vec<_> = wanted
        .iter()
        .filter(|object| object.resource.kind == "StatefulSet")
        .filter_map(|object| {
            let metadata = &object.object.metadata;
            Some((metadata.name.clone()?, metadata.annotations.as_ref()?.get(TEMPLATE)?.clone()))
        })
        .collect();
    let steps: BTreeMap<String, Step> = rollout::steps(&workers, &found.sets, prepared);
    let waits = |object: &Object| {
        let name = object.object.metadata.name.as_ref().filter(|_| object.resource.kind == "StatefulSet");
        name.is_some_and(|name| steps.get(name) == Some(&Step::Wait))
    };
    let (later, now): (Vec<_>, Vec<_>) = wanted.into_iter().partition(waits);
    (now, later.into_iter().next().and_then(|object| object.object.metadata.name))
}

/// How Kafka is reached, or what stands in the way of it.
async fn reach<K: ServiceKind>(
    client: &Client,
    watched: &crate::watched::Watched,
    service: &K,
    names: &Names,
) -> Result<Result<Reached, Obstacle>, ReconcileError> {
    let spec = &service.service().kafka;
    let Some(strimzi) = &spec.strimzi else {
        let kafka = spec.external.as_ref().map(Kafka::external).unwrap_or_default();
        return Ok(Ok(Reached { kafka, acls: false }));
    };
    if !watched.knows("KafkaTopic", &names.namespace) {
        return Ok(Err(validate::no_strimzi()));
    }
    let Some(found) = dereference::kafka(client, names, strimzi).await? else {
        return Ok(Err(validate::no_kafka(strimzi, &names.namespace)));
    };
    Ok(found
        .reach(strimzi)
        .map(|kafka| Reached { kafka, acls: found.has_acls() })
        .map_err(|unusable| validate::unusable(&unusable)))
}

/// A Secret that a spec names besides those of Kafka and the shards, with the keys that are needed, and the parts that read it
/// when they start.
struct NamedSecret {
    readers: &'static [Component],
    secret: (String, Vec<&'static str>),
    /// Keys that it may have.
    optional: &'static [&'static str],
}

fn named_secrets<K: ServiceKind>(service: &K) -> Vec<NamedSecret> {
    let token = service.service().gateway.token_secret_ref.as_ref().map(|secret| NamedSecret {
        readers: &[Component::Gateway],
        secret: (secret.name.clone(), vec!["token"]),
        optional: &[],
    });
    let redis = service.redis().and_then(|redis| redis.external.as_ref()).map(|redis| NamedSecret {
        readers: &[Component::Gateway, Component::Stateless],
        secret: (redis.secret_ref.name.clone(), vec![redis::KEY]),
        optional: &[redis::AUTHORITY],
    });
    token.into_iter().chain(redis).collect()
}

/// What changes when what a part reads at its start does.
fn credentials<K: ServiceKind>(
    kafka: &Kafka,
    service: &K,
    names: &Names,
    found: &Found,
    named: &[NamedSecret],
) -> BTreeMap<&'static str, String> {
    let version = |name: &str, keys: &[&str]| Some(found.secrets.get(name)?.version(keys));
    let of = |part| {
        let read = named.iter().filter(|named| named.readers.contains(&part));
        let read = read.map(|named| (named.secret.0.clone(), [&*named.secret.1, named.optional].concat()));
        let all = kafka.secrets(names, part).into_iter().chain(read);
        let all: Vec<_> = all.filter_map(|(name, keys)| version(&name, &keys)).collect();
        all.join("-")
    };
    kafka::parts(service).map(|part| (part.label(), of(part))).filter(|(_, version)| !version.is_empty()).collect()
}

/// What the API server will refuse again until somebody acts is said in the status; everything else is tried again.
fn refused(error: ReconcileError) -> Result<Obstacle, ReconcileError> {
    match error {
        ReconcileError::Api(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Obstacle {
            reason: "ApplyRefused",
            message: format!("the API server refuses an object of this service: {}", status.message),
            passes: false,
        }),
        error => Err(error),
    }
}

pub(super) fn names_of<K: ServiceKind>(service: &K) -> Result<Names, ReconcileError> {
    Ok(Names {
        service: service.name_any(),
        namespace: service.namespace().ok_or(ReconcileError::Incomplete("namespace"))?,
        kind: K::kind(&()).into_owned(),
        owner: service.controller_owner_ref(&()).ok_or(ReconcileError::Incomplete("uid"))?,
    })
}

/// The image of workers that the spec does not name: the one that was current when the resource was made.
fn default_image<'a, K: ServiceKind>(service: &'a K, images: &'a Images) -> &'a str {
    let recorded = service.status().and_then(|status| status.image.as_deref());
    recorded.unwrap_or_else(|| K::default_image(images))
}

fn image_of<K: ServiceKind>(service: &K, images: &Images) -> String {
    let named = service.service().worker.image.clone();
    named.unwrap_or_else(|| default_image(service, images).to_owned())
}

/// The image of a Redis that the spec does not name: as with workers, an upgrade of the operator restarts none.
fn default_redis_image<'a, K: ServiceKind>(service: &'a K, images: &'a Images) -> &'a str {
    service.status().and_then(|status| status.redis_image.as_deref()).unwrap_or(&images.redis_image)
}

fn redis_image_of<K: ServiceKind>(service: &K, images: &Images) -> String {
    let named = service.redis().and_then(|redis| redis.image.clone());
    named.unwrap_or_else(|| default_redis_image(service, images).to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::blog_pipeline::BlogPipeline;
    use crate::secrets::FoundSecret;

    fn blog(redis: serde_json::Value, recorded: Option<&str>) -> BlogPipeline {
        let value = json!({
            "apiVersion": "shardlane.dev/v1alpha1", "kind": "BlogPipeline",
            "metadata": { "name": "journal", "namespace": "shop", "uid": "x" },
            "spec": {
                "partitions": 1, "redis": redis, "kafka": {}, "postgres": {},
                "gateway": { "tokenSecretRef": { "name": "login" } },
            },
            "status": { "redisImage": recorded },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_change_with_the_secrets_that_they_read() {
        let service = blog(json!({ "external": { "secretRef": { "name": "cache" } } }), None);
        let names = names_of(&service).unwrap();
        let of = |login: &str, cache: &str| {
            let secret = |key: &str, hash: &str| FoundSecret { keys: [(key.to_owned(), hash.to_owned())].into() };
            let secrets = [("login", secret("token", login)), ("cache", secret("uri", cache))];
            let secrets = secrets.map(|(name, secret)| (name.to_owned(), secret)).into();
            let found = Found { secrets, ..Found::default() };
            credentials(&Kafka::default(), &service, &names, &found, &named_secrets(&service))
        };
        let parts = |all: &BTreeMap<&'static str, String>| all.keys().copied().collect::<Vec<_>>();
        let first = of("a", "a");
        assert_eq!(parts(&first), ["gateway", "stateless"], "workers read neither");
        let (login, cache) = (of("b", "a"), of("a", "b"));
        assert_ne!(login["gateway"], first["gateway"]);
        assert_ne!(cache["gateway"], first["gateway"]);
        assert_eq!(login["stateless"], first["stateless"]);
        assert_ne!(cache["stateless"], first["stateless"]);
    }

    #[test]
    fn a_missing_secret_or_key_of_redis_is_told_with_what_to_make() {
        let service = blog(json!({ "external": { "secretRef": { "name": "cache" } } }), None);
        let named: Vec<_> = named_secrets(&service).into_iter().map(|named| named.secret).collect();
        let found = |keys: &[&str]| {
            let of = |keys: &[&str]| FoundSecret {
                keys: keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect(),
            };
            let secrets = [("login".to_owned(), of(&["token"])), ("cache".to_owned(), of(keys))];
            Found {
                secrets: secrets.into_iter().filter(|(_, secret)| !secret.keys.is_empty()).collect(),
                ..Found::default()
            }
        };
        assert_eq!(validate::secrets(&found(&["uri"]), named.iter()), Ok(()));
        let missing = validate::secrets(&found(&[]), named.iter()).unwrap_err();
        assert_eq!(missing.message, "the Secret cache is not there; make it, with the key \"uri\"");
        let other = validate::secrets(&found(&["url"]), named.iter()).unwrap_err();
        assert_eq!(other.reason, "SecretIncomplete");
        assert_eq!(named_secrets(&blog(json!({}), None)).len(), 1, "a Redis of the operator's has no Secret");
    }

    #[test]
    fn an_upgrade_of_the_operator_restarts_no_redis() {
        let images = Images { redis_image: "redis:new".to_owned(), ..Images::default() };
        assert_eq!(redis_image_of(&blog(json!({}), None), &images), "redis:new");
        assert_eq!(redis_image_of(&blog(json!({}), Some("redis:old")), &images), "redis:old");
        assert_eq!(redis_image_of(&blog(json!({ "image": "redis:mine" }), Some("redis:old")), &images), "redis:mine");
    }
}
