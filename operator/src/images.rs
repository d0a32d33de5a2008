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
    /// The mover.
    #[arg(long, env = "SHARDLANE_MOVER_IMAGE")]
    pub mover_image: String,
}
