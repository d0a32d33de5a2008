//! Images of this release, as the chart says them.

/// Images by what runs in them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Images {
    /// Workers and gateways of SignupShards.
    #[arg(long, env = "SHARDLANE_SIGNUP_IMAGE")]
    pub signup_image: String,
    /// Workers, gateways and paymentd of WalletPartitions.
    #[arg(long, env = "SHARDLANE_WALLET_IMAGE")]
    pub wallet_image: String,
    /// Workers and gateways of CounterPools.
    #[arg(long, env = "SHARDLANE_COUNTER_IMAGE")]
    pub counter_image: String,
    /// Workers, gateways and cache managers of BlogPipelines.
    #[arg(long, env = "SHARDLANE_BLOG_IMAGE")]
    pub blog_image: String,
    /// The Redis of services whose spec names none of somebody else's.
    #[arg(long, env = "SHARDLANE_REDIS_IMAGE")]
    pub redis_image: String,
    /// The mover.
    #[arg(long, env = "SHARDLANE_MOVER_IMAGE")]
    pub mover_image: String,
}
