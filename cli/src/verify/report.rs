//! What the mover found in the shards: pure, from its log.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::table::{Mood, columns, grouped, paint, partitions as count};

/// What it found.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// Whether all is well.
    pub ok: bool,
    /// Number of slots.
    #[serde(default)]
    slots: u32,
    #[serde(default)]
    partitions: Vec<Partition>,
    /// Slots of which a shard has a row that says that they move, as ranges.
    #[serde(default)]
    moving: Vec<String>,
    /// What is wrong.
    #[serde(default)]
    problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Partition {
    partition: u32,
    /// As ranges: `0-7`.
    #[serde(default)]
    slots: String,
    /// By table.
    #[serde(default)]
    rows: BTreeMap<String, u64>,
}

/// The report in a log, in which other lines may come before it and after it: as it is there, and as it is understood.
pub fn find(log: &str) -> Option<(String, Report)> {
    log.lines().rev().find_map(|line| Some((line.trim().to_owned(), serde_json::from_str(line).ok()?)))
}

/// A report, for a person.
pub fn text(called: &str, report: &Report, colours: bool) -> String {
    let Report { ok, slots, partitions, moving, problems } = report;
    let (said, mood) = if *ok { ("all is well", Mood::Good) } else { ("SOMETHING IS WRONG", Mood::Bad) };
    let rows: u64 = partitions.iter().flat_map(|partition| partition.rows.values()).sum();
    let all = format!("{slots} slots and {} rows in {}", grouped(rows), count(partitions.len() as u64));
    let mut text = format!("{called}: {}, {all}\n", paint(said, mood, colours));
    if !partitions.is_empty() {
        text += &columns(&table(partitions), "  ", colours);
    }
    if !moving.is_empty() {
        text += &format!(
            "  on their way, or not yet cleaned where they were: {}\n",
            paint(&moving.join(","), Mood::Busy, colours)
        );
    }
    for problem in problems {
        text += &format!("  {}\n", paint(problem, Mood::Bad, colours));
    }
    text
}

/// A row for each partition, with a column for each table that any of them has.
fn table(partitions: &[Partition]) -> Vec<Vec<(String, Mood)>> {
    let tables: BTreeSet<_> = partitions.iter().flat_map(|partition| partition.rows.keys()).collect();
    let plain = |text: String| (text, Mood::Plain);
    let mut heads = vec![plain("PARTITION".to_owned()), plain("SLOTS".to_owned())];
    heads.extend(tables.iter().map(|table| plain(table.to_uppercase())));
    let row = |of: &Partition| {
        let slots = if of.slots.is_empty() { "none".to_owned() } else { of.slots.clone() };
        let mut row = vec![plain(of.partition.to_string()), plain(slots)];
        row.extend(tables.iter().map(|table| plain(of.rows.get(*table).map_or("0".to_owned(), |rows| grouped(*rows)))));
        row
    };
    std::iter::once(heads).chain(partitions.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = r#"{"ok":true,"slots":24,"partitions":[{"partition":0,"slots":"0-11","rows":{"account":1234,"refusal":5}},{"partition":1,"slots":"12-23","rows":{"account":1200}}],"moving":["8-9"],"problems":[]}"#;

    #[test]
    fn the_report_is_found_among_the_lines_of_the_log() {
        let log = format!(
            "{{\"level\":\"INFO\",\"message\":\"ready\"}}\n{{\"ok\":false,\"problems\":[\"old\"]}}\n{WELL}\n{{\"message\":\"stopping\"}}\n"
        );
        let (line, report) = find(&log).unwrap();
        assert_eq!(line, WELL);
        assert!(report.ok && report.slots == 24);
        assert_eq!(find("{\"level\":\"ERROR\",\"message\":\"no\"}\nok\ntrue\n[]\n"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn rows_are_shown_by_partition_and_table() {
        let expected = "\
SignupShard shop/demo: all is well, 24 slots and 2,439 rows in 2 partitions
  PARTITION  SLOTS  ACCOUNT  REFUSAL
  0          0-11   1,234    5
  1          12-23  1,200    0
  on their way, or not yet cleaned where they were: 8-9
";
        assert_eq!(text("SignupShard shop/demo", &find(WELL).unwrap().1, false), expected);
    }

    #[test]
    fn what_is_wrong_is_shown() {
        let report = r#"{"ok":false,"slots":2,"partitions":[{"partition":0,"slots":"","rows":{}}],"problems":["slot 1 is owned by nobody"]}"#;
        let expected = "\
x: SOMETHING IS WRONG, 2 slots and 0 rows in 1 partition
  PARTITION  SLOTS
  0          none
  slot 1 is owned by nobody
";
        assert_eq!(text("x", &find(report).unwrap().1, false), expected);
    }
}
