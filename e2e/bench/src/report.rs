//! The report: for people at a terminal, as Markdown, as JSON and as a picture.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::machine::Machine;
use crate::plot;
use crate::usage::Usage;

/// From how much use by others, in processors, figures count as disturbed.
const DISTURBED: f64 = 0.2;

/// Everything that was measured.
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// Runs of each side.
    pub runs: usize,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure.
pub struct Row {
    /// What is measured.
    pub name: String,
    /// In what.
    pub unit: Unit,
    /// Ours.
    pub ours: Side,
    /// What it is compared with, if with anything.
    pub bare: Option<Side>,
    /// What that is.
    pub beside: String,
    /// What it should reach.
    pub target: Option<Target>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// One side of a figure.
#[derive(Clone, Debug)]
pub struct Side {
    /// A value for each run.
    pub samples: Samples,
    /// Who used the processors.
    pub usage: Option<Usage>,
    /// How many of what was counted were done in a second while that was looked at.
    pub rate: Option<f64>,
    /// What the backends of Postgres waited for, the busiest first.
    pub waits: Vec<String>,
}

/// In what a figure is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// More is better.
    PerSecond,
    /// Less is better.
    Milliseconds,
    /// Less is better.
    Mebibytes,
    /// Less is better.
    Reads,
}

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At least this part of what the bare program does.
    Ratio(f64),
    /// At most so much.
    AtMost(f64),
    /// At most so much in each run.
    Never(f64),
    /// At most so many times what is beside it.
    Times(f64),
}

/// A value for each run.
#[derive(Clone, Debug)]
pub struct Samples(pub Vec<f64>);

/// A time as figures tell it.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.
}

/// The value below which this share of all lies.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let place = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

impl Samples {
    /// The middle one, or what lies between the middle two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (lower, upper) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        sorted.get(lower).zip(sorted.get(upper)).map_or(f64::NAN, |(lower, upper)| f64::midpoint(*lower, *upper))
    }

    fn range(&self, unit: Unit) -> String {
        let (least, most) = (percentile(&self.0, 0.), percentile(&self.0, 1.));
        format!("{}–{}", unit.text(least), unit.text(most))
    }

    fn json(&self) -> serde_json::Value {
        json!({ "median": self.median(), "runs": self.0 })
    }
}

impl Unit {
    /// A value of it, without its name.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Reads => grouped(value),
            Self::Milliseconds => format!("{value:.2}"),
            Self::Mebibytes => format!("{value:.1}"),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Reads => "reads",
        }
    }
}

/// With a comma before every three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

impl Row {
    /// Ours to bare, by medians.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours.samples.median() / self.bare.as_ref()?.samples.median())
    }

    /// The least that the ratio might be as well: ours at its slowest beside bare at its fastest.
    pub fn least_ratio(&self) -> Option<f64> {
        Some(percentile(&self.ours.samples.0, 0.) / percentile(&self.bare.as_ref()?.samples.0, 1.))
    }

    /// How it stands to its target.
    pub fn verdict(&self) -> String {
        let (reached, target) = match self.target {
            None => return String::new(),
            Some(Target::Ratio(least)) => (self.ratio().is_some_and(|ratio| ratio >= least), format!("{least:.2}")),
            Some(Target::Times(most)) => (self.ratio().is_some_and(|ratio| ratio <= most), format!("≤ {most} times")),
            Some(Target::AtMost(most)) => {
                (self.ours.samples.median() <= most, format!("≤ {most} {}", self.unit.name()))
            }
            Some(Target::Never(most)) => {
                let worst = percentile(&self.ours.samples.0, 1.);
                (worst <= most, format!("never > {most} {}", self.unit.name()))
            }
        };
        format!("{target}: {}", if reached { "reached" } else { "MISSED" })
    }

    /// Whether somebody else used the processors meanwhile.
    fn disturbed(&self) -> bool {
        let sides = [Some(&self.ours), self.bare.as_ref()];
        sides.into_iter().flatten().filter_map(|side| side.usage.as_ref()).any(|usage| usage.others() > DISTURBED)
    }

    fn cells(&self) -> [String; COLUMNS] {
        let unit = self.unit;
        let value = |side: &Side| format!("{} {}", unit.text(side.samples.median()), unit.name());
        let mut verdict = self.verdict();
        if self.disturbed() {
            verdict.push_str(" (disturbed)");
        }
        [
            self.name.clone(),
            value(&self.ours),
            self.ours.samples.range(unit),
            self.bare.as_ref().map(value).unwrap_or_default(),
            self.bare.as_ref().map(|bare| bare.samples.range(unit)).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            verdict.trim().to_owned(),
        ]
    }

    fn bounds(&self) -> Vec<String> {
        let mut lines = self.notes.clone();
        if self.bare.is_some() {
            lines.push(format!("bare: {}", self.beside));
        }
        for (name, side) in [("ours", Some(&self.ours)), ("bare", self.bare.as_ref())] {
            let Some(side) = side else { continue };
            if let Some(usage) = &side.usage {
                lines.push(format!("{name}, processors used: {}", usage.text(side.rate)));
            }
            for (number, waits) in side.waits.iter().enumerate() {
                lines.push(format!("{name}, backend {} of Postgres: {waits}", number + 1));
            }
        }
        lines
    }

    fn json(&self) -> serde_json::Value {
        let side = |side: &Side| json!({ "samples": side.samples.json(), "usage": side.usage, "waits": side.waits });
        json!({
            "name": self.name,
            "unit": self.unit.name(),
            "ours": side(&self.ours),
            "bare": self.bare.as_ref().map(side),
            "beside": self.beside,
            "ratio": self.ratio(),
            "target": self.verdict(),
            "disturbed": self.disturbed(),
            "notes": self.notes,
        })
    }
}

const COLUMNS: usize = 7;
const HEAD: [&str; COLUMNS] = ["", "ours", "range", "bare", "range", "ours/bare", "target"];

impl Report {
    /// As a table of aligned columns.
    pub fn text(&self) -> String {
        let mut table = vec![HEAD.map(str::to_owned)];
        table.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        let line = |row: &[String; COLUMNS]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut lines: Vec<_> = table.iter().map(line).collect();
        lines.push(String::new());
        lines.extend(self.machine.lines());
        lines.join("\n") + "\n"
    }

    fn markdown(&self) -> String {
        let mut lines = vec!["# Bench".to_owned(), String::new(), "![ours beside bare](report.svg)".to_owned()];
        lines.extend([String::new(), format!("Medians and ranges of {} runs of each side, taking turns.", self.runs)]);
        lines.extend([String::new(), format!("|{}|", HEAD.join("|")), "|---|--:|--:|--:|--:|--:|---|".to_owned()]);
        lines.extend(self.rows.iter().map(|row| format!("|{}|", row.cells().join("|"))));
        lines.extend([String::new(), "## What bounds each figure".to_owned()]);
        // Figures of the same runs have the same bounds.
        for rows in self.rows.chunk_by(|one, next| one.bounds() == next.bounds()) {
            let names: Vec<_> = rows.iter().map(|row| &*row.name).collect();
            lines.extend([String::new(), format!("**{}**", names.join("; ")), String::new()]);
            lines.extend(rows[0].bounds().iter().map(|line| format!("- {line}")));
        }
        lines.extend([String::new(), "## On what".to_owned(), String::new()]);
        lines.extend(self.machine.lines().iter().map(|line| format!("- {line}")));
        lines.join("\n") + "\n"
    }

    /// Writes all files.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::write(folder.join("report.md"), self.markdown())?;
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        let all = json!({ "machine": self.machine, "runs": self.runs, "rows": rows });
        std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(&all)?)?;
        plot::draw(&self.rows, &folder.join("report.svg"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], bare: &[f64], target: Target) -> Row {
        let side =
            |values: &[f64]| Side { samples: Samples(values.to_vec()), usage: None, rate: None, waits: Vec::new() };
        Row {
            name: "x".to_owned(),
            unit: Unit::PerSecond,
            ours: side(ours),
            bare: Some(side(bare)),
            beside: String::new(),
            target: Some(target),
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_ratio_is_of_medians() {
        let row = row(&[1., 70., 900.], &[100., 100., 5.], Target::Ratio(0.7));
        assert_eq!(row.ratio(), Some(0.7));
        assert!(row.verdict().ends_with("reached"), "{}", row.verdict());
    }

    #[test]
    fn the_least_ratio_has_bad_luck_on_our_side_only() {
        assert_eq!(row(&[70., 60., 80.], &[90., 120., 100.], Target::Ratio(0.7)).least_ratio(), Some(0.5));
    }

    #[test]
    fn the_median_of_two_runs_flatters_none() {
        assert_eq!(Samples(vec![77., 125.]).median(), 101.);
        assert_eq!(Samples(vec![9., 1., 2.]).median(), 2.);
        assert!(Samples(Vec::new()).median().is_nan());
    }

    #[test]
    fn what_is_under_target_is_marked() {
        assert!(row(&[69.], &[100.], Target::Ratio(0.7)).verdict().ends_with("MISSED"));
        assert!(row(&[5.1], &[1.], Target::AtMost(5.)).verdict().ends_with("MISSED"));
        assert!(row(&[1., 1., 6.], &[1.], Target::AtMost(5.)).verdict().ends_with("reached"));
        assert!(row(&[1., 1., 6.], &[1.], Target::Never(5.)).verdict().ends_with("MISSED"));
        assert!(row(&[2.], &[1.], Target::Times(2.)).verdict().ends_with("reached"));
        assert!(row(&[2.1], &[1.], Target::Times(2.)).verdict().ends_with("MISSED"));
    }

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!([7., 999., 1_000., 1_234_567.].map(grouped), ["7", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn percentiles_of_few_values_are_values() {
        let values = [3., 1., 2.];
        assert_eq!([0., 0.5, 0.99, 1.].map(|share| percentile(&values, share)), [1., 2., 3., 3.]);
    }
}
