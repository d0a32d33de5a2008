//! Images of this release, as the chart says them.

/// Images by what runs in them.
#[derive(Clone, Debug, clap::Args)]
pub struct Images {
    /// Workers and gateways of SignupShards.
    #[arg(long, env = "SHARDLANE_SIGNUP_IMAGE")]
    pub signup_image: String,
    /// The mover.
    #[arg(long, env = "SHARDLANE_MOVER_IMAGE")]
    pub mover_image: String,
}
