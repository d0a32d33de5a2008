//! Fences that a mover has left standing are undone by the shard's own worker, so that a lost mover holds nothing up.

use std::convert::Infallible;
use std::time::Duration;

use crate::database::{ShardAddress, within};
use crate::postgres::Session;
use crate::shard;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// The fences of one shard.
pub struct Fences {
    session: Session,
    owner: String,
}

impl Fences {
    /// Those of the shard at an address, for the worker called `owner`.
    pub fn new(address: ShardAddress, owner: &str) -> Self {
        Self { session: Session::new(address, ""), owner: owner.to_owned() }
    }

    /// Goes on until the process ends. Trouble with the shard only means that it is done later: nobody works on its slots then.
    pub async fn run(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look().await {
                Ok(0) => {}
                Ok(slots) => tracing::warn!(slots, "a fence has lasted too long and is undone; the mover tries again"),
                Err(error) => {
                    tracing::debug!(%error, "fences are looked at later");
                    self.session.close();
                }
            }
        }
    }

    async fn look(&mut self) -> sqlx::Result<u64> {
        within(shard::undo_fences(self.session.get().await?, &self.owner)).await
    }
}
