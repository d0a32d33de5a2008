//! What one sequential program makes of the log, and whether the world came to the same.

use std::collections::BTreeMap;

use shardlane_mover::moves::edges::State;

use crate::edges::slot_of;
use crate::service::{Answer, Answers, HUGE, Model, REFUSED, Registers, parse};
use crate::world::{Published, SLOTS, World};

/// What must be there in the end.
#[derive(Default)]
pub struct Expected {
    registers: Registers,
    answers: Answers,
    /// Reason by slot and offset.
    dead: BTreeMap<(u32, i64), &'static str>,
}

/// Reads each slot's log once, record by record.
pub fn expected(world: &World) -> Expected {
    let mut all = Expected::default();
    for (slot, entry) in world.log.iter().flat_map(|(slot, log)| log.iter().map(move |entry| (*slot, entry))) {
        if slot_of(&entry.key) != slot {
            all.dead.insert((slot, entry.offset), "misrouted");
            continue;
        }
        let request = match parse(entry.value.as_bytes()) {
            Err(_) => {
                all.dead.insert((slot, entry.offset), "poison");
                continue;
            }
            Ok(request) if request.content == REFUSED => {
                all.dead.insert((slot, entry.offset), "refused");
                continue;
            }
            Ok(request) => request,
        };
        let at = (slot, request.key.clone());
        let register = all.registers.get(&at).cloned().unwrap_or_default();
        all.answers.entry((slot, request.key, request.id)).or_insert_with(|| {
            let made = register.after(request.content);
            if let Some(made) = &made {
                all.registers.insert(at, made.clone());
            }
            Answer { content: request.content, made }
        });
    }
    all
}

/// Whether everything that can be applied is applied, and everything that can be published is published.
pub fn is_done(world: &World) -> bool {
    let owned = world.servers.iter().flat_map(|server| server.db.slots.iter()).filter(|(_, row)| row.state.owns());
    let positions: BTreeMap<u32, i64> = owned.map(|(slot, row)| (*slot, row.next)).collect();
    let applied = world
        .log
        .iter()
        .all(|(slot, log)| log.last().is_none_or(|last| positions.get(slot).is_some_and(|next| *next > last.offset)));
    applied && world.servers.iter().all(|server| server.db.relayed == server.db.batch)
}

/// Compares the world, at rest, with the oracle; `partitions`: how many were to own slots in the end.
pub fn check(world: &World, partitions: u32) -> Result<(), String> {
    let expected = expected(world);
    check_slots(world, partitions)?;
    check_state(world, &expected)?;
    check_answers(world, &expected)?;
    check_dead(world, &expected)?;
    check_compacted(world, &expected)
}

/// Each slot is where it is wanted, and no trace of it anywhere else.
fn check_slots(world: &World, partitions: u32) -> Result<(), String> {
    let mut owners: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
    for (partition, server) in (0..).zip(&world.servers) {
        let slots = &server.db.slots;
        for (slot, row) in slots {
            if row.state != State::Active || owners.insert(*slot, (partition, row.epoch)).is_some() {
                return Err(format!("at rest, slot {slot} is {:?} in shard {partition}, beside {owners:?}", row.state));
            }
        }
        if let Some(slot) = server.db.tables.slots().into_iter().find(|slot| !slots.contains_key(slot)) {
            return Err(format!("at rest, shard {partition} has rows of slot {slot}, which it does not own"));
        }
        let (least, most) = (SLOTS / partitions, SLOTS.div_ceil(partitions));
        let share = if partition < partitions { least..=most } else { 0..=0 };
        if !share.contains(&u32::try_from(slots.len()).unwrap()) {
            return Err(format!("shard {partition} has {} slots, of {partitions} shards", slots.len()));
        }
    }
    if owners.len() != SLOTS as usize {
        return Err(format!("some slots have no owner: {owners:?}"));
    }
    for hint in &world.hints {
        let (owner, epoch) = owners[&hint.slot];
        if hint.epoch > epoch || (hint.epoch == epoch && hint.partition != owner) {
            return Err(format!("{hint:?} says what was never so: {owners:?}"));
        }
    }
    // What remains of the topic when it is compacted; before anything was ever told, the first owners are known otherwise.
    let last: BTreeMap<u32, (u32, i64)> =
        world.hints.iter().map(|hint| (hint.slot, (hint.partition, hint.epoch))).collect();
    if last.iter().any(|(slot, told)| owners[slot] != *told) {
        return Err(format!("the hints end with {last:?}, and the slots are owned by {owners:?}"));
    }
    Ok(())
}

/// What lies where it is owned.
fn check_state(world: &World, expected: &Expected) -> Result<(), String> {
    let (mut registers, mut answers) = (Registers::new(), BTreeMap::new());
    for db in world.servers.iter().map(|server| &server.db) {
        let rows = db.tables.registers.iter().chain(&db.graves).filter(|(key, _)| db.tenure(key.0).is_some());
        registers.extend(rows.map(|(key, row)| (key.clone(), row.row.clone())));
        let rows = db.tables.answers.iter().filter(|(key, _)| db.tenure(key.0).is_some());
        answers.extend(rows.map(|(key, row)| (key.clone(), row.row.made.clone())));
    }
    same("the registers", &registers, &expected.registers)?;
    let made = expected.answers.iter().map(|(key, answer)| (key.clone(), answer.made.clone())).collect();
    same("the answers", &answers, &made)
}

/// The published values of a topic, by slot and key, oldest first.
fn published<'a>(world: &'a World, topic: &str) -> BTreeMap<(u32, String), Vec<(&'a Published, String)>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for published in world.published.iter().filter(|published| &*published.record.topic == topic) {
        let record = &published.record;
        let text = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap_or_default()).unwrap();
        found.entry((record.slot, text(&record.key))).or_default().push((published, text(&record.value)));
    }
    found
}

/// Every request is answered, and always with the same words.
fn check_answers(world: &World, expected: &Expected) -> Result<(), String> {
    let told = published(world, "response");
    let digests = published(world, Model::INPUT_DLQ);
    for ((slot, key, id), answer) in &expected.answers {
        let words = answer.text(id);
        let prefix = format!("{id} ");
        let told = told.get(&(*slot, key.clone())).map_or(&[][..], Vec::as_slice);
        let of_this: Vec<&String> =
            told.iter().map(|(_, text)| text).filter(|text| text.starts_with(&prefix)).collect();
        if let Some(other) = of_this.iter().find(|text| ***text != words) {
            return Err(format!("{key} {id} was answered {other:?}, not {words:?}"));
        }
        if answer.content == HUGE {
            let digest = digests.get(&(*slot, key.clone())).is_some_and(|all| all.iter().any(|(p, _)| is_digest(p)));
            if !digest {
                return Err(format!("{key} {id}: its answer is too large, and no digest was published"));
            }
        } else if of_this.is_empty() {
            return Err(format!("{key} {id} was never answered"));
        }
    }
    let known = |slot: u32, key: &str, text: &str| {
        let id = text.split(' ').next().unwrap_or_default().to_owned();
        expected.answers.contains_key(&(slot, key.to_owned(), id))
    };
    for ((slot, key), texts) in &told {
        if let Some((_, text)) = texts.iter().find(|(_, text)| !known(*slot, key, text)) {
            return Err(format!("{key} was told {text:?}, which nobody asked for"));
        }
    }
    Ok(())
}

fn is_digest(published: &Published) -> bool {
    published.record.headers.iter().any(|(name, _)| *name == "shardlane.value.sha256")
}

/// Each bad record is in the shard and in the topic of dead letters, and no good one is.
fn check_dead(world: &World, expected: &Expected) -> Result<(), String> {
    let mut dead = BTreeMap::new();
    for server in &world.servers {
        let owned = server.db.tables.dead.iter().filter(|(at, _)| server.db.tenure(at.0).is_some());
        dead.extend(owned.map(|(at, row)| (*at, row.row.0.clone())));
    }
    let wanted: BTreeMap<_, _> = expected.dead.iter().map(|(at, reason)| (*at, (*reason).to_owned())).collect();
    same("the dead letters", &dead, &wanted)?;
    let told = published(world, Model::INPUT_DLQ);
    for ((slot, offset), reason) in &expected.dead {
        let start = format!("{offset} {reason} ");
        let found = told.iter().filter(|((of, _), _)| of == slot).flat_map(|(_, all)| all);
        if !found.into_iter().any(|(_, text)| text.starts_with(&start)) {
            return Err(format!("the dead letter of {slot}:{offset} ({reason}) was never published"));
        }
    }
    Ok(())
}

/// What readers have of a key who keep the highest version that they have seen, tombstones included, is its state. And it is
/// what remains in the compacted topic, but for what was published late by a worker that was no longer the owner.
fn check_compacted(world: &World, expected: &Expected) -> Result<(), String> {
    let told = published(world, "state");
    for ((slot, key), register) in &expected.registers {
        let of_key = told.get(&(*slot, key.clone())).map_or(&[][..], Vec::as_slice);
        let words = register.text();
        let last = of_key.iter().rfind(|(published, _)| published.by_owner).map(|(_, text)| text);
        if last != Some(&words) {
            return Err(format!("the compacted topic ends with {last:?} for {key}, and its state is {words:?}"));
        }
        let version = |text: &str| -> i64 { text.split(' ').next().unwrap_or_default().parse().unwrap_or_default() };
        let highest = of_key.iter().map(|(_, text)| text).max_by_key(|text| version(text));
        if highest != Some(&words) {
            return Err(format!("a reader of the compacted topic has {highest:?} of {key}, which is {words:?}"));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} are {found:?}, and should be {expected:?}")) }
}
