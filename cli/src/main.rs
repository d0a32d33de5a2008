//! `kubectl shardlane`: what services do, and what one says to them.

mod access;
mod audit;
mod gateway;
mod report;
mod reshard;
mod signup;
mod status;
mod table;
mod transfer;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use access::{Access, Failure};
use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "kubectl-shardlane",
    bin_name = "kubectl shardlane",
    version,
    about = "Services that are sharded by Kafka partition"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct Place {
    /// The namespace; the kubeconfig's own if absent.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// The context of the kubeconfig.
    #[arg(long, global = true)]
    context: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// How services are: conditions, and each partition with its worker, shard, slots and lag.
    Status {
        /// One service, as NAME or KIND/NAME; all if absent.
        name: Option<String>,
        /// Of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// For scripts.
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Has the operator leave a service as it is; it runs on.
    Pause { name: String },
    /// Has the operator look after it again.
    Resume { name: String },
    /// How far a change of spec.partitions has come: slots, steps, rows, pauses.
    Reshard {
        /// The service, as NAME or KIND/NAME.
        name: String,
        /// Follows it until the service is settled.
        #[arg(short, long)]
        watch: bool,
        /// For scripts; with --watch a line for each change.
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Looks into all shards: whether each slot has one owner, and every row lies where its slot is.
    Verify {
        /// The service, as NAME or KIND/NAME.
        name: String,
        /// How long it may take, in seconds.
        #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
        timeout: u32,
        /// For scripts.
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Signs usernames up, one after another.
    Signup {
        /// The SignupShard.
        name: String,
        #[arg(required = true)]
        usernames: Vec<String>,
    },
    /// Whether a wallet's money is conserved: deposited, on accounts and in transit, by currency.
    Audit {
        /// The WalletPartition.
        name: String,
        /// For scripts: the gateway's answer as it is.
        #[arg(short, long)]
        output: Option<Output>,
    },
    /// Transfers money between two accounts of a wallet, and says what became of it.
    Transfer {
        /// The WalletPartition.
        name: String,
        #[command(flatten)]
        wanted: transfer::Wanted,
    },
    /// Writes down all that somebody who helps would ask for. Secrets are left out.
    Report {
        /// The service.
        name: String,
        /// The file; standard output if absent.
        #[arg(short, long)]
        file: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Place { namespace, context } = cli.place;
    let access = Access::open(namespace, context).await?;
    match cli.command {
        Command::Status { name, all_namespaces, output } => {
            let services = status::services(&access, name.as_deref(), all_namespaces).await?;
            status::show(&services, output.is_some())
        }
        Command::Pause { name } => status::pause(&access, &name, true).await,
        Command::Resume { name } => status::pause(&access, &name, false).await,
        Command::Reshard { name, watch: true, output } => reshard::watch(&access, &name, output.is_some()).await,
        Command::Reshard { name, watch: false, output } => reshard::show(&access, &name, output.is_some()).await,
        Command::Verify { name, timeout, output } => verify::verify(&access, &name, timeout, output.is_some()).await,
        Command::Signup { name, usernames } => signup::sign_up(&access, &name, &usernames).await,
        Command::Audit { name, output } => audit::show(&access, &name, output.is_some()).await,
        Command::Transfer { name, wanted } => transfer::make(&access, &name, &wanted).await,
        Command::Report { name, file } => report::write(&access, &name, file.as_deref()).await,
    }
}
