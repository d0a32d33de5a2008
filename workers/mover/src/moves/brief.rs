//! What is written to a target, in transactions that are short: while one is open, nothing is cleared away of what the target's own
//! worker writes again and again, and each of its statements has more to look through.

use std::time::{Duration, Instant};

use shardlane_runtime::database::within;
use sqlx::PgConnection;

use super::edges::{Attempt, State};
use super::statements::{Trouble, line, lock};

/// After how long one is ended, and another begun.
const LONG: Duration = Duration::from_millis(200);

/// The transaction at hand.
pub struct Brief<'a> {
    shard: &'a mut PgConnection,
    attempt: &'a Attempt,
    began: Instant,
}

impl<'a> Brief<'a> {
    /// Begins the first one.
    pub async fn begin(shard: &'a mut PgConnection, attempt: &'a Attempt) -> Result<Self, Trouble> {
        let mut brief = Self { shard, attempt, began: Instant::now() };
        brief.open().await?;
        Ok(brief)
    }

    /// Where it is.
    pub fn shard(&mut self) -> &mut PgConnection {
        self.shard
    }

    /// Something is done that may stay, whatever becomes of the rest.
    pub async fn go_on(&mut self) -> Result<(), Trouble> {
        if self.began.elapsed() >= LONG {
            within(sqlx::raw_sql("COMMIT").execute(&mut *self.shard)).await?;
            self.open().await?;
        }
        Ok(())
    }

    /// All is done. Gives the server's time line.
    pub async fn end(self) -> Result<String, Trouble> {
        let line = line(self.shard).await?;
        within(sqlx::raw_sql("COMMIT").execute(self.shard)).await?;
        Ok(line)
    }

    async fn open(&mut self) -> Result<(), Trouble> {
        self.began = Instant::now();
        within(sqlx::raw_sql("BEGIN").execute(&mut *self.shard)).await?;
        // Somebody may have taken over since the one before.
        lock(self.shard, self.attempt, &[State::Incoming]).await?;
        Ok(())
    }
}
