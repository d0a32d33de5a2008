//! Making a batch ready for its turn, without I/O: sorted and folded, so that its transaction only writes.

use std::sync::Arc;

use crate::intake::{Advance, DeadLetter, Intake, Keyspace, Positions, sort_out};
use crate::record::{Batch, Record};
use crate::service::{Rejection, Service};

/// A batch that is ready to be written.
#[derive(Debug)]
pub struct Prepared<P> {
    /// Its records, should Postgres refuse some of them.
    pub batch: Batch,
    /// What they come to.
    pub work: Work<P>,
}

/// What one transaction writes.
#[derive(Debug)]
pub struct Work<P> {
    /// The service's part. Shared, because the relay may put it into words long after it was written.
    pub plan: Arc<P>,
    /// Records that cannot be taken.
    pub dead: Vec<DeadLetter>,
    /// How far each slot gets.
    pub advances: Vec<Advance>,
}

/// Makes a whole batch ready; its slots are taken to stand where it begins.
pub fn prepare<S: Service>(service: &S, keyspace: Keyspace, batch: Batch) -> Prepared<S::Plan> {
    let work = fold(service, keyspace, &batch.begins, batch.records(0..batch.len()));
    Prepared { batch, work }
}

/// What records come to that follow these positions.
pub fn fold<'a, S: Service>(
    service: &S,
    keyspace: Keyspace,
    positions: &Positions,
    records: impl Iterator<Item = Record<'a>>,
) -> Work<S::Plan> {
    let Intake { accepted, dead, advances } = sort_out(service, keyspace, positions, records);
    Work { plan: Arc::new(service.fold(accepted)), dead, advances }
}

/// Records that are all dead letters for one reason.
pub fn bury<'a, S: Service>(
    service: &S,
    positions: &Positions,
    records: impl Iterator<Item = Record<'a>>,
    rejection: &Rejection,
) -> Work<S::Plan> {
    let (mut dead, mut advances) = (Vec::new(), Vec::new());
    for record in records {
        dead.push(DeadLetter::of(&record, rejection.clone()));
        advances.push(Advance::over(positions, &record));
    }
    Work { plan: Arc::new(service.fold(Vec::new())), dead, advances }
}
