//! `wallet`: `accountantd` (worker), `transfer-server` (gateway), `paymentd` and schema of a WalletPartition.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use shardlane_runtime::cli::{Common, Failure, ProcessArgs};
use shardlane_runtime::process::{self, Shutdown};
use shardlane_runtime::stateless;
use shardlane_wallet::gateway;
use shardlane_wallet::paymentd::Paymentd;
use shardlane_wallet::service::{WalletService, schema};

#[derive(Parser)]
#[command(version, about = "Transfers between accounts on different shards, exactly once")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Common(Common),
    /// Makes of each transfer an instruction for the account that pays.
    Paymentd(PaymentdArgs),
}

#[derive(Args)]
struct PaymentdArgs {
    #[command(flatten)]
    process: ProcessArgs,
    /// Its name among those that share the work; the same after a restart.
    #[arg(long, env = "SHARDLANE_INSTANCE")]
    instance: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    process::init_logs();
    process::finish(run(command).await)
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Common(command) => command.run(WalletService::of, gateway::run, &schema()).await,
        Command::Paymentd(PaymentdArgs { process, instance }) => {
            let (config, port) = (Arc::new(process.load()?), process.ports().metrics);
            Ok(stateless::serve(Paymentd, config, &instance, port, Shutdown::on_signal()?).await?)
        }
    }
}
