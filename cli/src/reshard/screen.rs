//! Where a watched move is shown: redrawn in place at a terminal, elsewhere a line for each change.

use std::io::{IsTerminal, Write};

use super::look::{Look, Run, State};
use super::text;
use crate::table::colours;

/// Where it is shown.
pub struct Screen {
    way: Way,
    /// What was shown last.
    last: String,
    /// What the mover said last, for the last word.
    run: Option<Run>,
}

enum Way {
    /// In place.
    Terminal,
    /// A line for each change.
    Lines,
    /// A line of JSON for each change.
    Json,
}

impl Screen {
    /// Standard output.
    pub fn of(as_json: bool) -> Self {
        let way = match as_json {
            true => Way::Json,
            false if std::io::stdout().is_terminal() => Way::Terminal,
            false => Way::Lines,
        };
        Self { way, last: String::new(), run: None }
    }

    /// Shows a look, if it says anything new.
    pub fn show(&mut self, look: &Look) -> std::io::Result<()> {
        self.run = look.run().cloned().or(self.run.take());
        let ended = self.run.as_ref().filter(|_| look.state() == State::Settled).map(text::summary);
        let mut shown = match self.way {
            Way::Terminal => text::text(look, true, colours()),
            Way::Lines => text::line(look) + "\n",
            Way::Json => look.to_json().to_string() + "\n",
        };
        if let Some(ended) = ended
            && !matches!(self.way, Way::Json)
        {
            shown += &format!("  {ended}\n");
        }
        if shown == self.last {
            return Ok(());
        }
        let written = match self.way {
            Way::Terminal => redrawn(self.last.lines().count(), &shown),
            Way::Lines | Way::Json => shown.clone(),
        };
        self.last = shown;
        let mut out = std::io::stdout().lock();
        out.write_all(written.as_bytes())?;
        out.flush()
    }
}

/// What puts a text in the place of one of so many lines. While it is drawn, the terminal cuts what is longer than a line
/// instead of breaking it, so that a line of the text stays a line of the screen.
fn redrawn(before: usize, text: &str) -> String {
    let back = if before > 0 { format!("\x1b[{before}F") } else { String::new() };
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[?7l{back}{lines}\x1b[J\x1b[?7h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_takes_the_place_of_the_one_before() {
        assert_eq!(redrawn(0, "a\n"), "\x1b[?7la\x1b[K\n\x1b[J\x1b[?7h");
        assert_eq!(redrawn(3, "a\nb\n"), "\x1b[?7l\x1b[3Fa\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
    }
}
