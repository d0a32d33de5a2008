//! The custom resources: what a user writes, and what the operator answers.

pub mod blog_pipeline;
pub mod common;
pub mod counter_pool;
pub mod kafka;
pub mod redis;
pub mod reference;
pub mod resources;
mod rules;
pub mod signup_shard;
pub mod status;
pub mod wallet_partition;

use kube::CustomResourceExt;
use kube::core::ApiResource;

/// Types of all kinds of service.
pub fn kinds() -> Vec<ApiResource> {
    vec![
        ApiResource::erase::<signup_shard::SignupShard>(&()),
        ApiResource::erase::<wallet_partition::WalletPartition>(&()),
        ApiResource::erase::<counter_pool::CounterPool>(&()),
        ApiResource::erase::<blog_pipeline::BlogPipeline>(&()),
    ]
}

/// The CRDs, each with the name of its file.
pub fn crds()
-> Vec<(&'static str, k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition)> {
    vec![
        ("signupshards.yaml", signup_shard::SignupShard::crd()),
        ("walletpartitions.yaml", wallet_partition::WalletPartition::crd()),
        ("counterpools.yaml", counter_pool::CounterPool::crd()),
        ("blogpipelines.yaml", blog_pipeline::BlogPipeline::crd()),
    ]
}
