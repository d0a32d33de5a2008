//! What programs have in common that signal themselves in the middle of their work.

use std::process::{Command, ExitCode};

/// Sends this process a signal. It blocks the thread, so that the work gets no further than here before the signal comes.
pub fn signal_self(signal: &str) {
    let pid = std::process::id().to_string();
    let _ = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
}

/// How a process ends that may not have come to its work.
pub fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
