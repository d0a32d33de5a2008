//! A look in words: pure.

use super::look::{Group, Look, Run, State};
use crate::table::{Mood, columns, grouped, paint, partitions as count};

/// Groups that are shown, so that a screen holds all of it.
const GROUPS: usize = 8;
/// Cells of the bar.
const CELLS: u32 = 32;

/// Characters of a line at a terminal, which may cut what is longer.
const WIDTH: usize = 78;

/// A look, for a person; at a terminal with a bar, and in lines that fit.
pub fn text(look: &Look, terminal: bool, colours: bool) -> String {
    let (said, mood) = headline(look);
    let mut text = format!("{}: {}\n", called(look), paint(&said, mood, colours));
    if terminal && called(look).len() + said.len() > WIDTH {
        text = format!("{}:\n", called(look));
        add(&mut text, &said, mood, terminal, colours);
    }
    let (State::Moving | State::Paused) = look.state() else { return text };
    if look.reshard.is_none() {
        return text;
    }
    let (done, total) = bar_of(look);
    if terminal && total > 0 {
        add(&mut text, &drawn(done, total), Mood::Plain, false, colours);
    }
    add(&mut text, &progress(look), Mood::Plain, terminal, colours);
    if let Some(message) = message(look) {
        add(&mut text, message, Mood::Plain, terminal, colours);
    }
    let groups = look.run().map_or(&[][..], |run| &run.groups);
    if !groups.is_empty() {
        text += &table(groups, colours);
    }
    for (line, mood) in remarks(look) {
        add(&mut text, &line, mood, terminal, colours);
    }
    text
}

/// Adds a line, or as many as it needs where each has to fit.
fn add(text: &mut String, line: &str, mood: Mood, fit: bool, colours: bool) {
    let mut piece = String::new();
    for word in line.split_inclusive(' ') {
        if fit && !piece.is_empty() && piece.chars().count() + word.trim_end().chars().count() > WIDTH - 2 {
            *text += &format!("  {}\n", paint(piece.trim_end(), mood, colours));
            piece.clear();
        }
        piece += word;
    }
    *text += &format!("  {}\n", paint(piece.trim_end(), mood, colours));
}

/// A look in one line, in which nothing changes that changes all the time.
pub fn line(look: &Look) -> String {
    let mut parts = vec![format!("{}: {}", called(look), headline(look).0)];
    if matches!(look.state(), State::Moving) && look.reshard.is_some() {
        let (moved, total) = look.slots();
        parts.push(match look.run() {
            Some(run) if run.phase == "cleaning" => {
                format!("cleaning, {} slots cleaned", of(run.slots_cleaned, total))
            }
            _ if total > 0 => format!("{}, {moved} of {total} slots moved", look.phase()),
            _ => look.phase(),
        });
        parts.extend(message(look).map(str::to_owned));
        let groups = look.run().map_or(&[][..], |run| &run.groups);
        let told = |group: &Group| format!("{} from {} to {}: {}", group.slots, group.from, group.to, group.step);
        parts.extend(groups.iter().map(told));
        parts.extend(remarks(look).into_iter().map(|(line, _)| line));
    }
    parts.join("; ")
}

/// What there is to say of a move that has ended.
pub fn summary(run: &Run) -> String {
    let pause = pause(run).map(|pause| format!("; the longest pause was {pause} ms"));
    format!("{} slots moved, {} rows copied{}", run.slots_moved, grouped(run.rows), pause.unwrap_or_default())
}

/// The longest pause, in milliseconds, if there was one yet.
fn pause(run: &Run) -> Option<u64> {
    run.longest_pause_ms.filter(|pause| *pause > 0)
}

fn called(look: &Look) -> String {
    format!("{} {}/{}", look.kind, look.namespace, look.name)
}

fn headline(look: &Look) -> (String, Mood) {
    let Look { name, wanted, partitions, .. } = look;
    match look.state() {
        State::Settled => (format!("nothing moves; {}", count(*partitions)), Mood::Good),
        State::Unseen => ("the operator has not seen the last change of it yet".to_owned(), Mood::Busy),
        State::Moving => (heading(look), Mood::Busy),
        State::Paused => {
            let held = format!("{}, and it is paused; kubectl shardlane resume {name} goes on", heading(look));
            (held, Mood::Busy)
        }
        State::Held(why) => (format!("{} of {wanted} partitions, and it does not go on: {why}", partitions), Mood::Bad),
    }
}

/// From where to where. Once the operator has recorded it, the move may be one that is older than the last edit.
fn heading(look: &Look) -> String {
    match &look.reshard {
        Some(told) => format!("from {} to {}", told.from, count(told.to)),
        None => format!("from {} to {}", look.partitions, count(look.wanted)),
    }
}

/// How much of what is done, of how much.
fn bar_of(look: &Look) -> (u32, u32) {
    match look.run() {
        Some(run) if run.phase == "cleaning" => (run.slots_cleaned, run.slots_total),
        _ => look.slots(),
    }
}

fn drawn(done: u32, total: u32) -> String {
    let share = |of: u32| u32::try_from(u64::from(of) * u64::from(done.min(total)) / u64::from(total)).unwrap_or(of);
    let full = share(CELLS);
    let cells = |cell: &str, count: u32| cell.repeat(count as usize);
    format!("{}{} {:>3} %", cells("█", full), cells("░", CELLS - full), share(100))
}

/// What the operator says, while the mover does not.
fn message(look: &Look) -> Option<&str> {
    let told = look.reshard.as_ref().filter(|_| look.run().is_none())?;
    Some(&*told.message).filter(|message| !message.is_empty())
}

/// Where a mover cleans what another has moved, it does not know of how many.
fn of(cleaned: u32, total: u32) -> String {
    if cleaned <= total && total > 0 { format!("{cleaned} of {total}") } else { cleaned.to_string() }
}

fn progress(look: &Look) -> String {
    let (moved, total) = look.slots();
    let mut parts = vec![look.phase()];
    if total > 0 {
        parts.push(format!("{moved} of {total} slots moved"));
    }
    if let Some(run) = look.run() {
        if run.phase == "cleaning" {
            parts.push(format!("{} cleaned", of(run.slots_cleaned, total)));
        }
        parts.push(format!("{} rows copied", grouped(run.rows)));
        if run.rows_per_second >= 1.0 {
            parts.push(format!("{} a second", grouped(whole(run.rows_per_second))));
        }
        parts.extend(pause(run).map(|pause| format!("longest pause {pause} ms")));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

fn table(groups: &[Group], colours: bool) -> String {
    let plain = |text: String| (text, Mood::Plain);
    let heads = ["SLOTS", "FROM", "TO", "STEP", "ROWS"];
    let mut rows = vec![heads.map(|head| plain(head.to_owned())).to_vec()];
    rows.extend(groups.iter().take(GROUPS).map(|group| {
        let Group { from, to, slots, step, rows } = group;
        vec![
            plain(slots.clone()),
            plain(from.to_string()),
            plain(to.to_string()),
            (step.clone(), Mood::Busy),
            plain(grouped(*rows)),
        ]
    }));
    let mut text = columns(&rows, "  ", colours);
    if groups.len() > GROUPS {
        text += &format!("  and {} more\n", groups.len() - GROUPS);
    }
    text
}

/// What holds it up, and what went wrong.
fn remarks(look: &Look) -> Vec<(String, Mood)> {
    let waits = look.mover.as_ref().and_then(|mover| mover.waiting_for.as_ref());
    let mut remarks: Vec<_> = waits.map(|what| (format!("the mover waits: {what}"), Mood::Busy)).into_iter().collect();
    remarks.extend(look.problem().map(|problem| (problem.to_string(), Mood::Bad)));
    remarks
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::look::Reason;
    use super::*;

    fn moving(mover: Value) -> Look {
        let reshard = json!({
            "from": 2, "to": 3, "slotsTotal": 16, "slotsMoved": 4, "phase": "Moving", "message": "5-7 are on their way",
        });
        Look {
            kind: "SignupShard".to_owned(),
            namespace: "shop".to_owned(),
            name: "demo".to_owned(),
            wanted: 3,
            partitions: 3,
            current: true,
            reshard: serde_json::from_value(reshard).unwrap(),
            mover: serde_json::from_value(mover).unwrap(),
            ..Look::default()
        }
    }

    fn run() -> Value {
        json!({ "ready": true, "waitingFor": null, "reshard": {
            "phase": "moving", "partitions": 3, "slotsTotal": 16, "slotsMoved": 8, "slotsCleaned": 0,
            "rows": 1_234_567, "rowsPerSecond": 52_000, "longestPauseMs": 320,
            "groups": [{ "from": 0, "to": 2, "slots": "5-7", "step": "catching-up", "rows": 12_345 }],
        } })
    }

    #[test]
    fn a_move_is_shown_with_its_groups() {
        let expected = "\
SignupShard shop/demo: from 2 to 3 partitions
  ████████████████░░░░░░░░░░░░░░░░  50 %
  moving, 8 of 16 slots moved, 1,234,567 rows copied, 52,000 a second, longest
  pause 320 ms
  SLOTS  FROM  TO  STEP         ROWS
  5-7    0     2   catching-up  12,345
";
        assert_eq!(text(&moving(run()), true, false), expected);
        assert!(!text(&moving(run()), false, false).contains('█'));
    }

    #[test]
    fn what_went_wrong_and_what_is_waited_for_is_shown() {
        let mut said = run();
        said["waitingFor"] = json!("postgres: shard 2 does not answer");
        said["reshard"]["problem"] = json!({ "reason": "MoveUndone", "message": "slots 5-7: counts differ" });
        let look = moving(said);
        for shown in [text(&look, false, false), line(&look)] {
            assert!(shown.contains("the mover waits: postgres: shard 2 does not answer"), "{shown}");
            assert!(shown.contains("MoveUndone: slots 5-7: counts differ"), "{shown}");
        }
    }

    #[test]
    fn without_a_mover_the_operator_has_its_say() {
        let expected = "\
SignupShard shop/demo: from 2 to 3 partitions
  moving, 4 of 16 slots moved
  5-7 are on their way
";
        assert_eq!(text(&moving(Value::Null), false, false), expected);
        let expected =
            "SignupShard shop/demo: from 2 to 3 partitions; moving, 4 of 16 slots moved; 5-7 are on their way";
        assert_eq!(line(&moving(Value::Null)), expected);
    }

    #[test]
    fn cleaning_has_a_bar_of_its_own() {
        let mut said = run();
        said["reshard"]["phase"] = json!("cleaning");
        said["reshard"]["slotsMoved"] = json!(16);
        said["reshard"]["slotsCleaned"] = json!(4);
        said["reshard"]["groups"] = json!([]);
        let mut look = moving(said);
        let shown = text(&look, true, false);
        assert!(shown.contains(" 25 %") && shown.contains("16 of 16 slots moved, 4 of 16 cleaned"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert_eq!(line(&look), "SignupShard shop/demo: from 2 to 3 partitions; cleaning, 4 of 16 slots cleaned");
        // What another mover has moved.
        let run = look.mover.as_mut().unwrap().reshard.as_mut().unwrap();
        (run.slots_total, run.slots_moved) = (0, 0);
        assert!(text(&look, true, false).contains("cleaning, 4 cleaned, "), "{}", text(&look, true, false));
    }

    #[test]
    fn a_line_is_the_same_while_only_rows_are_copied() {
        let (before, mut later) = (moving(run()), run());
        later["reshard"]["rows"] = json!(2_000_000);
        later["reshard"]["rowsPerSecond"] = json!(48_000.5);
        later["reshard"]["groups"][0]["rows"] = json!(777_778);
        assert_eq!(line(&before), line(&moving(later.clone())));
        let expected =
            "SignupShard shop/demo: from 2 to 3 partitions; moving, 8 of 16 slots moved; 5-7 from 0 to 2: catching-up";
        assert_eq!(line(&before), expected);
        later["reshard"]["groups"][0]["step"] = json!("fenced");
        assert_ne!(line(&before), line(&moving(later)));
    }

    #[test]
    fn where_nothing_moves_it_says_so_and_why() {
        let still = |change: &dyn Fn(&mut Look)| {
            let mut look = Look { reshard: None, ..moving(Value::Null) };
            change(&mut look);
            assert_eq!(text(&look, false, false), format!("{}\n", line(&look)));
            line(&look)
        };
        assert_eq!(still(&|_| ()), "SignupShard shop/demo: nothing moves; 3 partitions");
        let held = still(&|look| {
            look.wanted = 4;
            let reason = Reason { reason: "SecretMissing".to_owned(), message: "there is no Secret c".to_owned() };
            look.degraded = Some(reason);
        });
        let expected = "3 of 4 partitions, and it does not go on: SecretMissing: there is no Secret c";
        assert_eq!(held, format!("SignupShard shop/demo: {expected}"));
        let mut long = Look { reshard: None, wanted: 4, ..moving(Value::Null) };
        long.degraded =
            Some(Reason { reason: "ApplyRefused".to_owned(), message: "a quota of the namespace ".repeat(9) });
        let shown = text(&long, true, false);
        assert!(shown.starts_with("SignupShard shop/demo:\n  3 of 4 partitions, and it"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        let paused = still(&|look| (look.wanted, look.paused) = (4, true));
        assert!(paused.contains("from 3 to 4 partitions, and it is paused; kubectl shardlane resume demo"), "{paused}");
        assert!(still(&|look| look.current = false).contains("has not seen"));
    }

    #[test]
    fn many_groups_are_cut_short_and_a_bar_is_never_too_long() {
        let mut look = moving(run());
        let groups = &mut look.mover.as_mut().unwrap().reshard.as_mut().unwrap().groups;
        *groups = vec![groups[0].clone(); GROUPS + 3];
        assert!(text(&look, false, false).ends_with("  and 3 more\n"));
        assert_eq!(drawn(0, 3).matches('█').count(), 0);
        assert_eq!(drawn(9, 3).matches('█').count(), CELLS as usize);
        assert_eq!(summary(look.run().unwrap()), "8 slots moved, 1,234,567 rows copied; the longest pause was 320 ms");
    }
}
