//! The partition loop, the relay and the mover, as they are, in a simulated world that crashes, stalls and fails over in random
//! order while slots move, compared with what one sequential program makes of the same log.
//!
//! A schedule is a seed. One that fails says how to run it again with everything that happens in it printed:
//! `SHARDLANE_MODEL_SEED=7 cargo test -p shardlane-mover --test model -- --nocapture`

#![allow(clippy::tests_outside_test_module, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod edges;
mod log;
mod oracle;
mod processes;
mod schedule;
mod service;
mod shards;
mod world;

use schedule::run;
use world::Fault;

/// Schedules of a test run.
const SCHEDULES: u64 = 10_000;
/// Schedules within which a planted fault must be found.
const TO_FIND: u64 = 3_000;

#[test]
fn nothing_is_lost_doubled_or_answered_differently() {
    if let Ok(seed) = std::env::var("SHARDLANE_MODEL_SEED") {
        run(seed.parse().expect("a number"), None, true).unwrap();
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..SCHEDULES).step_by(threads as usize) {
                    if let Err(violation) = run(seed, None, false) {
                        panic!("{violation}\nRun it again with SHARDLANE_MODEL_SEED={seed}");
                    }
                }
            });
        }
    });
}

fn is_found(fault: Fault) {
    let found = (0..TO_FIND).find_map(|seed| Some((seed, run(seed, Some(fault), false).err()?)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{fault:?} was not found in {TO_FIND} schedules"));
    assert_eq!(run(seed, None, false), Ok(()), "{fault:?} was found by seed {seed}, which fails without it too");
    println!("{fault:?}: found by seed {seed}: {violation}");
}

#[test]
fn a_fence_that_does_not_look_at_the_owner_is_found() {
    is_found(Fault::NoOwnerCheck);
}

#[test]
fn offsets_outside_the_transaction_are_found() {
    is_found(Fault::OffsetsOutsideTransaction);
}

#[test]
fn a_relay_that_raises_its_mark_first_is_found() {
    is_found(Fault::MarkFirst);
}

#[test]
fn outcomes_that_are_not_stored_for_losers_are_found() {
    is_found(Fault::LosersForgotten);
}

#[test]
fn dedupe_without_the_key_is_found() {
    is_found(Fault::DedupeWithoutKey);
}

#[test]
fn an_ignored_slots_version_is_found() {
    is_found(Fault::SlotsVersionIgnored);
}

#[test]
fn a_retry_that_republishes_old_state_is_found() {
    is_found(Fault::OldStateAgain);
}

#[test]
fn a_dead_letter_outside_the_transaction_is_found() {
    is_found(Fault::DeadLettersOutsideTransaction);
}

#[test]
fn a_digest_that_is_left_out_is_found() {
    is_found(Fault::TooLargeLeftOut);
}

#[test]
fn a_source_that_works_on_under_the_fence_is_found() {
    is_found(Fault::NoFence);
}

#[test]
fn slots_that_change_without_their_version_are_found() {
    is_found(Fault::NoSlotsVersion);
}

#[test]
fn a_last_delta_that_is_left_out_is_found() {
    is_found(Fault::NoLastDelta);
}

#[test]
fn outcomes_that_are_left_behind_are_found() {
    is_found(Fault::OutcomesLeftBehind);
}

#[test]
fn slots_that_go_before_their_outcomes_are_published_are_found() {
    is_found(Fault::RelayedLies);
}

#[test]
fn rows_that_keep_their_batch_are_found() {
    is_found(Fault::BatchKept);
}

#[test]
fn a_target_that_is_active_too_early_is_found() {
    is_found(Fault::ActiveBeforeMoved);
}

#[test]
fn a_mover_that_wakes_after_its_successor_is_found() {
    is_found(Fault::NoAttemptCheck);
}

#[test]
fn a_target_that_takes_slots_from_anybody_is_found() {
    is_found(Fault::ExpectsAnything);
}

#[test]
fn a_target_that_forgets_slots_before_their_rows_is_found() {
    is_found(Fault::ForgetsWhatLies);
}

#[test]
fn a_hard_delete_during_the_copy_is_found() {
    is_found(Fault::HardDelete);
}
