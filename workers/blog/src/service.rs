//! The blog as a service of the runtime: what a worker does with the posts of its slots.

use std::sync::Arc;

use axum::Router;
use serde::{Deserialize, Serialize};
use shardlane_runtime::behind::Behind;
use shardlane_runtime::config::{ConfigError, ServiceConfig};
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, BatchRange, Message, Rejection, Schema, Service, Tables};
use sqlx::{PgConnection, PgPool};

use crate::fold::{BlogPlan, fold};
use crate::posts::Written;
use crate::wire::{Instruction, Published, parse};
use crate::{reads, tables};

/// Role of the topic of posts, edits and deletions as they are asked for.
pub const NEW_POSTS: &str = "new_posts";
/// Role of the compacted topic of posts as they are.
pub const PUBLISHED_POSTS: &str = "published_posts";

/// What the custom resource says of blogs alone: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlogSettings {}

/// Posts, each in the slot of its slug.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlogService;

impl BlogService {
    /// The service that is configured.
    pub fn of(config: &ServiceConfig) -> Result<Self, ConfigError> {
        config.settings::<BlogSettings>().map(|_| Self)
    }
}

/// What the mover needs to know of the shards.
pub fn schema() -> Schema {
    Schema::of::<BlogService>(tables::DDL, &tables::TABLES)
}

/// Posts to be published.
#[derive(Debug)]
pub enum Told {
    /// What a batch has just written, and what it was asked for again.
    Now(Arc<BlogPlan>, Vec<Written>, Vec<Published>),
    /// Rows of the shard.
    Before(Vec<Published>),
}

impl Service for BlogService {
    type Request = Instruction;
    type Plan = BlogPlan;
    const INPUT: &'static str = NEW_POSTS;

    fn parse(&self, record: &Record<'_>) -> Result<Instruction, Rejection> {
        parse(record)
    }

    fn fold(&self, instructions: Vec<Accepted<Instruction>>) -> BlogPlan {
        fold(instructions)
    }
}

impl Tables for BlogService {
    type Outcomes = Told;
    // What became of changes. Posts stay, deleted ones too.
    const PRUNED: &'static [&'static str] = &["change"];

    async fn apply(&self, tx: &mut PgConnection, batch: i64, plan: &Arc<BlogPlan>) -> sqlx::Result<Told> {
        let (written, again) = tables::apply(tx, batch, plan).await?;
        Ok(Told::Now(Arc::clone(plan), written, again))
    }

    async fn outcomes(&self, shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Told> {
        tables::outcomes(shard, range).await.map(Told::Before)
    }

    fn messages(told: Told) -> sqlx::Result<Vec<Message>> {
        match told {
            Told::Now(plan, written, again) => {
                let written = written.iter().map(|post| message(&post.published(&plan)));
                written.chain(again.iter().map(message)).collect()
            }
            Told::Before(posts) => posts.iter().map(message).collect(),
        }
    }

    fn reads(&self, shard: PgPool, _: Arc<Behind>) -> Router {
        reads::routes(shard)
    }
}

fn message(post: &Published) -> sqlx::Result<Message> {
    let value = serde_json::to_vec(post).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(Message { role: PUBLISHED_POSTS, key: post.slug.as_bytes().to_vec(), value })
}
