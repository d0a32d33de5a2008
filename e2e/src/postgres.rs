//! A Postgres of a test's own, which it may lose.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::{free_ports, setting, signal, until};

/// How long it may take to start, with what it has to do over again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server.
pub struct Postgres {
    data: PathBuf,
    port: u16,
    child: Mutex<Child>,
}

impl Postgres {
    /// Starts one without any database of users.
    pub async fn start(name: &str) -> Result<Self> {
        let data = PathBuf::from(setting("SHARDLANE_TEST_POSTGRES_FOLDER")?).join(name);
        let mut make = program("initdb", &data)?;
        make.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]).stdin(Stdio::null());
        let made = make.output().await?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_ports()?;
        let server = Self { child: Mutex::new(serve(&data, port)?), data, port };
        server.answers().await?;
        Ok(server)
    }

    /// Address of a database.
    pub fn uri(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Ends it at once, as a crash does: it writes nothing more, and has to recover from its log.
    pub async fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        signal(child.id(), "QUIT").await?;
        child.wait().await?;
        Ok(())
    }

    /// Starts it again where it was, and waits until it answers.
    pub async fn start_again(&self) -> Result<()> {
        *self.child.lock().await = serve(&self.data, self.port)?;
        self.answers().await
    }

    async fn answers(&self) -> Result<()> {
        let uri = self.uri("postgres");
        until(PATIENCE, async || Ok(PgConnection::connect(&uri).await?.close().await?)).await
    }
}

fn serve(data: &Path, port: u16) -> Result<Child> {
    let log = File::options().create(true).append(true).open(data.with_extension("log"))?;
    let mut server = program("postgres", data)?;
    server.args(["-p", &port.to_string(), "-k", "", "-c", "listen_addresses=127.0.0.1"]);
    server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(server.kill_on_drop(true).spawn()?)
}

/// One of its programs, as a user that it runs as: it refuses to as root.
fn program(name: &str, data: &Path) -> Result<Command> {
    let folder = setting("SHARDLANE_TEST_POSTGRES_FOLDER")?;
    let owner = std::fs::metadata(&folder)?;
    let mut program = Command::new(Path::new(&setting("SHARDLANE_TEST_POSTGRES_PROGRAMS")?).join(name));
    program.arg("-D").arg(data).uid(owner.uid()).gid(owner.gid()).current_dir(folder);
    Ok(program)
}
