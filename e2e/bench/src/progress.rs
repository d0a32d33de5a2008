//! Telling a person how it goes: one line for what is done, and at a terminal one for what is under way.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Where progress is told.
pub struct Progress {
    began: Instant,
    terminal: bool,
}

impl Progress {
    /// Begins now.
    pub fn new() -> Self {
        Self { began: Instant::now(), terminal: std::io::stdout().is_terminal() }
    }

    /// Something is under way.
    pub fn doing(&self, what: &str) {
        if self.terminal {
            print!("\r\x1b[K{} .. {what}", self.time());
            // A terminal that is gone needs no progress.
            let _ = std::io::stdout().flush();
        }
    }

    /// Something is done.
    pub fn done(&self, what: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        println!("{clear}{} {what}", self.time());
    }

    fn time(&self) -> String {
        let seconds = self.began.elapsed().as_secs();
        format!("[{:2}m{:02}s]", seconds / 60, seconds % 60)
    }
}
