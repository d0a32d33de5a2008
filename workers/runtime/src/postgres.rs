//! The real edges to a shard: the loop's and the relay's, each over a connection of its own.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shardlane_config::{ConfigError, ServiceConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::addresses::Addresses;
use crate::database::{ShardAddress, within};
use crate::edges::{Fence, Outbox, OutboxError, Outcomes, Shard, ShardError, Slots, TakeOver, Window};
use crate::fresh::Fresh;
use crate::intake::{Advance, DeadLetter};
use crate::process::with_causes;
use crate::service::{BatchRange, Rejection, Tables};
use crate::shard::{self, Raised};

/// What a loop's connection is told first: it looks some thousand keys up, in tables of any size, and that is always best done
/// by their index. Of a young table the planner knows too little, and might read all of it for each key.
pub const LOOP_SETUP: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
/// What a relay's connection is told first. A mark that a crash of Postgres takes back only means that outcomes are
/// published again, so it need not wait for the disk, and holds the fence row all the shorter. The index on batch is
/// right however new the table is, and more processes would only take the loop's processors. Under steady load it is not used for
/// hours, and what lies between forgets connections on which nothing passes.
const RELAY_SETUP: &str = "SET synchronous_commit = off; SET enable_seqscan = off;
    SET max_parallel_workers_per_gather = 0; SET tcp_keepalives_idle = 60";
/// Has the indexes on batch take in what is new: until then a window costs a look at every row that was written since
/// autovacuum did this last.
const TAKE_IN: &str = "SELECT brin_summarize_new_values(c.oid) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'brin' AND c.relnamespace = current_schema()::regnamespace";
/// How many pages are a range in the schemas' indexes.
const RANGE: i64 = 16;
/// PostgreSQL, appendix A.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How often it is done, at most.
const TAKEN_IN: Duration = Duration::from_secs(1);

/// Makes reading by batch fast, if nobody hinders it.
async fn take_in(shard: &mut PgConnection) -> sqlx::Result<()> {
    unless_hindered(shard, TAKE_IN).await.map(drop)
}

/// The indexes on batch by their oids, and of how many pages the table of each is.
pub async fn batch_indexes(shard: &mut PgConnection) -> sqlx::Result<Vec<(i64, i64)>> {
    let indexes = "SELECT c.oid::bigint, pg_relation_size(i.indrelid) / current_setting('block_size')::bigint
        FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
        WHERE a.amname = 'brin' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1";
    within(sqlx::query_as(indexes).fetch_all(shard)).await
}

/// Does it for some pages and one index. Gives whether nobody hindered it.
pub async fn take_in_pages(shard: &mut PgConnection, index: i64, pages: Range<i64>) -> sqlx::Result<bool> {
    let (first, last) = ((pages.start + RANGE - 1) / RANGE * RANGE, pages.end - 1);
    let ranges = format!(
        "SELECT brin_summarize_range({index}::oid::regclass, page) FROM generate_series({first}, {last}, {RANGE}) AS page"
    );
    unless_hindered(shard, &ranges).await
}

/// Whoever holds a table's lock is not waited for, as it may well be doing the same.
async fn unless_hindered(shard: &mut PgConnection, statement: &str) -> sqlx::Result<bool> {
    let statement = format!("SET LOCAL lock_timeout = '100ms'; {statement}");
    match sqlx::raw_sql(AssertSqlSafe(statement)).execute(shard).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
            tracing::debug!(%error, "the indexes on batch were not brought up to date");
            Ok(false)
        }
        done => done.map(|_| true),
    }
}

/// A connection that is made when it is needed, and made anew after a failure: one in an unknown state is worth nothing,
/// and the server rolls back what it had begun.
pub struct Session {
    address: ShardAddress,
    setup: &'static str,
    open: Option<PgConnection>,
}

impl Session {
    /// A session that runs `setup` on each new connection.
    pub fn new(address: ShardAddress, setup: &'static str) -> Self {
        Self { address, setup, open: None }
    }

    /// The connection.
    pub async fn get(&mut self) -> sqlx::Result<&mut PgConnection> {
        match self.open {
            Some(ref mut open) => Ok(open),
            None => {
                let mut fresh = self.address.connect().await?;
                if !self.setup.is_empty() {
                    within(sqlx::raw_sql(self.setup).execute(&mut fresh)).await?;
                }
                Ok(self.open.insert(fresh))
            }
        }
    }

    /// The connection of a transaction that has begun on it: never a new one.
    fn same(&mut self) -> sqlx::Result<&mut PgConnection> {
        self.open.as_mut().ok_or_else(|| sqlx::Error::Io(std::io::ErrorKind::NotConnected.into()))
    }

    /// Drops the connection.
    pub fn close(&mut self) {
        self.open = None;
    }
}

/// A shard in Postgres, as the loop writes it.
pub struct PgShard<S> {
    service: Arc<S>,
    service_id: String,
    partition: u32,
    owner: String,
    session: Session,
    addresses: Arc<Addresses>,
}

impl<S: Tables> PgShard<S> {
    /// The shard at an address, for the worker called `owner`.
    pub fn new(service: Arc<S>, config: &ServiceConfig, partition: u32, owner: &str, address: ShardAddress) -> Self {
        Self {
            service,
            service_id: config.id.clone(),
            partition,
            owner: owner.to_owned(),
            session: Session::new(address, LOOP_SETUP),
            addresses: Arc::new(Addresses::new(config, S::INPUT)),
        }
    }

    /// Takes a step's result to the loop; a failed step ends the connection, and with it the transaction.
    fn said<T>(&mut self, result: sqlx::Result<T>) -> Result<T, ShardError> {
        result.map_err(|error| {
            self.session.close();
            ShardError::Passing(with_causes(&error))
        })
    }
}

impl<S: Tables> Shard<S> for PgShard<S> {
    async fn take_over(&mut self) -> Result<TakeOver, ShardError> {
        let taken = async {
            within(shard::take_over(self.session.get().await?, &self.service_id, self.partition, &self.owner)).await
        }
        .await;
        self.said(taken)
    }

    async fn slots(&mut self) -> Result<Option<Slots>, ShardError> {
        let slots = async { within(shard::load_slots(self.session.get().await?, &self.owner)).await }.await;
        self.said(slots)
    }

    async fn slots_version(&mut self) -> Result<Option<i64>, ShardError> {
        let version = async { within(shard::slots_version(self.session.get().await?, &self.owner)).await }.await;
        self.said(version)
    }

    async fn adopt(&mut self, strays: &[(u32, i64)]) -> Result<(), ShardError> {
        let adopted = async { within(shard::adopt(self.session.get().await?, &self.owner, strays)).await }.await;
        self.said(adopted)
    }

    async fn begin(&mut self, advances: &[Advance]) -> Result<Option<Fence>, ShardError> {
        let fence = async { within(shard::begin(self.session.get().await?, &self.owner, advances)).await }.await;
        self.said(fence)
    }

    async fn apply(&mut self, batch: i64, plan: &Arc<S::Plan>) -> Result<Outcomes, ShardError> {
        let applied = async { within(self.service.apply(self.session.same()?, batch, plan)).await }.await;
        if let Some(rejection) = applied.as_ref().err().and_then(refused_data) {
            self.roll_back().await?;
            return Err(ShardError::Refused(rejection));
        }
        let outcomes = self.said(applied)?;
        let addresses = Arc::clone(&self.addresses);
        Ok(Box::new(move || {
            let messages = S::messages(outcomes).map_err(said)?;
            messages.into_iter().map(|message| addresses.outgoing(message).map_err(said)).collect()
        }))
    }

    async fn bury(&mut self, batch: i64, dead: &[DeadLetter]) -> Result<Outcomes, ShardError> {
        let buried = async { within(shard::bury(self.session.same()?, batch, dead)).await }.await;
        self.said(buried)?;
        let (addresses, dead) = (Arc::clone(&self.addresses), dead.to_vec());
        Ok(Box::new(move || {
            dead.into_iter().map(|letter| addresses.dead_letter(letter.into()).map_err(said)).collect()
        }))
    }

    async fn commit(&mut self, mark: Option<i64>) -> Result<(), ShardError> {
        let done = async { within(shard::commit(self.session.same()?, mark)).await }.await;
        self.said(done)
    }

    async fn roll_back(&mut self) -> Result<(), ShardError> {
        let done = async { within(sqlx::raw_sql("ROLLBACK").execute(self.session.same()?)).await }.await;
        self.said(done).map(drop)
    }
}

fn said(error: impl std::error::Error) -> String {
    error.to_string()
}

/// Data that Postgres will refuse however often it is tried: data exceptions, broken constraints, and program limits
/// (SQLSTATE classes 22, 23 and 54: PostgreSQL, appendix A).
fn refused_data(error: &sqlx::Error) -> Option<Rejection> {
    let refused = error.as_database_error()?;
    let code = refused.code()?;
    let classes = ["22", "23", "54"];
    classes.iter().any(|class| code.starts_with(class)).then(|| Rejection::refused(&code, refused.message()))
}

/// A shard in Postgres, as the relay reads it.
pub struct PgOutbox<S> {
    service: Arc<S>,
    owner: String,
    session: Session,
    addresses: Addresses,
    /// The last window was not the end.
    behind: bool,
    /// When the indexes were last brought up to date.
    taken_in: Option<Instant>,
}

impl<S: Tables> PgOutbox<S> {
    /// The shard at an address, for the worker called `owner`.
    pub fn new(service: Arc<S>, config: &ServiceConfig, owner: &str, address: ShardAddress) -> Self {
        let addresses = Addresses::new(config, S::INPUT);
        let session = Session::new(address, RELAY_SETUP);
        Self { service, owner: owner.to_owned(), session, addresses, behind: false, taken_in: None }
    }

    async fn read(&mut self, mark: Option<i64>, fresh: &Fresh) -> Result<Window, ReadError> {
        if self.behind && self.taken_in.is_none_or(|then| then.elapsed() >= TAKEN_IN) {
            self.taken_in = Some(Instant::now());
            take_in(self.session.get().await?).await?;
        }
        let connection = self.session.get().await?;
        // One snapshot: what it shows below its own batch number is complete and will not change behind the mark.
        let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let Some(mut waiting) = shard::unpublished(&mut snapshot, &self.owner).await? else {
            return Err(OutboxError::Fenced.into());
        };
        // A mark beyond what is there is that of a shard that was taken back.
        waiting.after = waiting.after.max(mark.filter(|mark| *mark <= waiting.to).unwrap_or(0));
        if waiting.to <= waiting.after {
            // Dropped, it would stay open until the connection is used again.
            snapshot.rollback().await?;
            return Ok(Window { after: waiting.after, to: waiting.after, ..Window::default() });
        }
        let range = BatchRange { to: waiting.to.min(waiting.after + fresh.fitting(waiting.after)), ..waiting };
        let outcomes = self.service.outcomes(&mut snapshot, range).await?;
        let dead = shard::dead_letters(&mut snapshot, range).await?;
        snapshot.commit().await?;
        self.behind = range.to < waiting.to;

        let mut records = Vec::new();
        for message in S::messages(outcomes)? {
            records.push(self.addresses.outgoing(message)?);
        }
        for letter in dead {
            records.push(self.addresses.dead_letter(letter)?);
        }
        Ok(Window { records, after: range.after, to: range.to, more: self.behind })
    }

    fn said<T>(&mut self, result: Result<T, ReadError>) -> Result<T, OutboxError> {
        result.map_err(|error| match error {
            ReadError::Outbox(error) => error,
            ReadError::Config(error) => OutboxError::Passing(error.to_string()),
            ReadError::Shard(error) => {
                self.session.close();
                OutboxError::Passing(format!("Postgres: {}", with_causes(&error)))
            }
        })
    }
}

impl<S: Tables> Outbox for PgOutbox<S> {
    async fn window(&mut self, mark: Option<i64>, fresh: &Fresh) -> Result<Window, OutboxError> {
        let window = within(self.read(mark, fresh)).await;
        self.said(window)
    }

    async fn raise_mark(&mut self, batch: i64) -> Result<bool, OutboxError> {
        let raised = async {
            let connection = self.session.get().await?;
            Ok(within(shard::raise_mark(connection, &self.owner, batch)).await?)
        };
        let raised = raised.await;
        match self.said(raised)? {
            Raised::Fenced => Err(OutboxError::Fenced),
            raised => Ok(raised == Raised::Yes),
        }
    }
}

/// Why a window could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Shard(#[from] sqlx::Error),
}
