//! Moving slots from shard to shard while the service runs. [`plan`](plan::plan) says which, [`group`] moves some of them,
//! [`run`] does it all and takes up what another mover has left. They see shards and Kafka through [`edges`] alone.

pub mod copy;
pub mod edges;
pub mod group;
pub mod plan;
pub mod postgres;
pub mod progress;
pub mod recover;
pub mod run;
pub mod statements;

/// Numbers in order as `0-7,9`.
pub fn ranges(slots: &[u32]) -> String {
    let runs = slots.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some((run.first()?, run.last()?)));
    let said = |(first, last): (&u32, &u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.map(said).collect::<Vec<_>>().join(",")
}
