//! The bare programs: what is compared with ours. Each is as fast as it can be made with the same libraries, and
//! promises nothing: no fence, no outcome, no answer, no refusal of bad input.

mod drain;
mod gateway;

pub use drain::Loop;

/// A bare program.
#[derive(clap::Subcommand)]
pub enum Bare {
    /// A loop from Kafka into Postgres.
    #[command(hide = true)]
    BareDrain(drain::Arguments),
    /// An HTTP handler that awaits the producer.
    #[command(hide = true)]
    BareGateway(gateway::Arguments),
}

impl Bare {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::BareDrain(arguments) => drain::run(arguments).await,
            Self::BareGateway(arguments) => gateway::run(arguments).await,
        }
    }
}
