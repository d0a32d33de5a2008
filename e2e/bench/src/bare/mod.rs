//! The bare programs: what is compared with ours. Each is as fast as it can be made with the same libraries, and
//! promises nothing: no fence, no outcome, no answer, no refusal of bad input.

mod drain;
mod gateway;
mod increments;
mod looped;
mod posts;
mod transfers;

pub use looped::Loop;
pub use posts::key;

/// A bare program.
#[derive(clap::Subcommand)]
pub enum Bare {
    /// A loop from Kafka into Postgres.
    #[command(name = "bare-drain", hide = true)]
    Drain(drain::Arguments),
    /// A loop that settles transfers.
    #[command(name = "bare-transfers", hide = true)]
    Transfers(looped::Ends),
    /// An HTTP handler that awaits the producer.
    #[command(name = "bare-gateway", hide = true)]
    Gateway(gateway::Arguments),
    /// A loop that adds up.
    #[command(name = "bare-increments", hide = true)]
    Increments(looped::Ends),
    /// An HTTP handler that asks Redis.
    #[command(name = "bare-posts", hide = true)]
    Posts(posts::Arguments),
}

impl Bare {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Drain(arguments) => drain::run(arguments).await,
            Self::Transfers(ends) => transfers::run(ends).await,
            Self::Gateway(arguments) => gateway::run(arguments).await,
            Self::Increments(ends) => increments::run(ends).await,
            Self::Posts(arguments) => posts::run(arguments).await,
        }
    }
}
