//! Text for a person: columns, and colours where there is a terminal.

use std::io::IsTerminal;

/// How something fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Good,
    /// It takes its time.
    Busy,
    /// Somebody should look.
    Bad,
    /// Neither.
    Plain,
}

/// Whether colours are wanted: by a person at a terminal who has not said otherwise (no-color.org).
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A text in its colour.
pub fn paint(text: &str, mood: Mood, colours: bool) -> String {
    let code = match mood {
        Mood::Good => 32,
        Mood::Busy => 33,
        Mood::Bad => 31,
        Mood::Plain => return text.to_owned(),
    };
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A number for a person: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3 partitions`.
pub fn partitions(count: impl Into<u64>) -> String {
    let count = count.into();
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

/// Rows in columns, each as wide as its widest cell; no spaces at the ends of lines.
pub fn columns(rows: &[Vec<(String, Mood)>], indent: &str, colours: bool) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<(String, Mood)>, at: usize| row.get(at).map_or(0, |(text, _)| text.chars().count());
    let widths: Vec<_> = (0..count).map(|at| rows.iter().map(|row| cell(row, at)).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (at, (cell, mood)) in row.iter().enumerate() {
            line += &paint(cell, *mood, colours);
            if at + 1 < row.len() {
                line += &" ".repeat(widths[at] + 2 - cell.chars().count());
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_cells_and_colours_change_no_width() {
        let row = |a: &str, b: &str| vec![(a.to_owned(), Mood::Plain), (b.to_owned(), Mood::Good)];
        let rows = [row("A", "B"), row("long", "x"), row("ü", "")];
        assert_eq!(columns(&rows, "  ", false), "  A     B\n  long  x\n  ü\n");
        assert!(columns(&rows, "", true).contains("long  \x1b[32mx\x1b[0m"));
    }
}
