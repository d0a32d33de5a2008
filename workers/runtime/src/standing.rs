//! Whether a slot's log is still the one that its shard knows: no I/O. A log that is another or has a hole is never
//! read on in silence.

use std::collections::BTreeMap;

use crate::intake::Memory;

/// Where a slot stands, as its shard says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Offset of the next record to apply.
    pub next_offset: i64,
    /// Id of the topic from which the slot was read; `None` if the broker gave none.
    pub topic_id: Option<String>,
    /// The last record that was applied; `None` before the first.
    pub last: Option<Memory>,
    /// How often the slot has changed its owner.
    pub epoch: i64,
}

/// Where slots stand.
pub type Standings = BTreeMap<u32, Standing>;

/// A slot's log as the broker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset of its first record.
    pub start: i64,
    /// Offset after its last record.
    pub end: i64,
}

/// From where a slot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first offset to ask for.
    pub offset: i64,
    /// What the record at that offset must be; it was applied already and is not given to the loop.
    pub look_back: Option<Memory>,
}

/// A topic, and whose place in it is spoken of.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The consumer group whose offsets say where it stands; `None`: a shard does.
    pub group: Option<&'a str>,
}

/// Where to start reading a slot, or why it must not be read. An aged log that begins right where the slot stands is
/// whole; so is one whose last applied record was compacted away.
pub fn start(
    reader: Reader<'_>,
    slot: u32,
    standing: &Standing,
    topic_id: Option<&str>,
    log: Extent,
) -> Result<Start, String> {
    let next = standing.next_offset;
    if let (Some(known), Some(found)) = (standing.topic_id.as_deref(), topic_id)
        && known != found
    {
        return Err(halted(
            reader,
            slot,
            &format!("the topic was deleted and made anew: its id was {known} and is {found}"),
            "Requests that were in the old one and not yet applied are lost with it",
        ));
    }
    if next < log.start {
        return Err(halted(
            reader,
            slot,
            &format!("the records {next} to {} were removed before they were applied", log.start - 1),
            "Keep records longer (retention.ms of the topic) than a worker may be away",
        ));
    }
    if next > log.end {
        return Err(halted(
            reader,
            slot,
            &format!("the log ends at {}, and the shard has applied all before {next}", log.end),
            "The topic has lost its end, or the shard belongs to another Kafka",
        ));
    }
    match standing.last {
        Some(last) if next > log.start => Ok(Start { offset: next - 1, look_back: Some(last) }),
        _ => Ok(Start { offset: next, look_back: None }),
    }
}

/// Why a slot halts whose record before `next` is not the one that was applied.
pub fn another_record(reader: Reader<'_>, slot: u32, next: i64) -> String {
    halted(
        reader,
        slot,
        &format!("the record at {} is not the one that was applied", next - 1),
        "The topic has lost its end and was written on, or the shard belongs to another Kafka",
    )
}

fn halted(reader: Reader<'_>, slot: u32, what: &str, hint: &str) -> String {
    let Reader { topic, group } = reader;
    let go_on = match group {
        None => format!("with \"{} resume --slot={slot}\" in the worker's container", program()),
        Some(group) => format!(
            "by resetting the offset of the group {group} for {topic}:{slot} (kafka-consumer-groups, while it is stopped)"
        ),
    };
    format!(
        "partition {slot} of {topic}: {what}. {hint}. Nothing of this slot is applied until somebody decides: bring the \
         log back, or go on from where it starts now {go_on}"
    )
}

/// What a person calls to run this program.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Extent = Extent { start: 10, end: 100 };
    const LAST: Memory = Memory { timestamp: 1, digest: 2 };

    const READER: Reader<'_> = Reader { topic: "t", group: None };

    fn at(next_offset: i64, last: Option<Memory>) -> Standing {
        Standing { next_offset, topic_id: Some("a".to_owned()), last, epoch: 1 }
    }

    fn why(standing: &Standing, topic_id: Option<&str>, log: Extent) -> String {
        start(READER, 3, standing, topic_id, log).unwrap_err()
    }

    #[test]
    fn a_known_log_is_read_from_its_last_applied_record() {
        let from = |next, last| start(READER, 3, &at(next, last), Some("a"), LOG).unwrap();
        assert_eq!(from(50, Some(LAST)), Start { offset: 49, look_back: Some(LAST) });
        assert_eq!(from(100, Some(LAST)), Start { offset: 99, look_back: Some(LAST) });
        assert_eq!(from(10, Some(LAST)), Start { offset: 10, look_back: None }, "the record before has aged away");
        assert_eq!(from(10, None), Start { offset: 10, look_back: None });
        assert_eq!(start(READER, 3, &at(50, None), None, LOG).unwrap().offset, 50, "a broker without topic ids");
    }

    #[test]
    fn another_log_or_a_hole_halts_and_says_what_to_do() {
        let hole = why(&at(9, Some(LAST)), Some("a"), LOG);
        assert!(hole.contains("records 9 to 9 were removed") && hole.contains("resume --slot=3"), "{hole}");
        assert!(why(&at(101, Some(LAST)), Some("a"), LOG).contains("ends at 100"));
        assert!(why(&at(50, Some(LAST)), Some("b"), LOG).contains("made anew"));
        let group = Reader { topic: "t", group: Some("g") };
        let of_group = start(group, 3, &at(9, None), None, LOG).unwrap_err();
        assert!(of_group.contains("offset of the group g for t:3"), "{of_group}");
    }
}
