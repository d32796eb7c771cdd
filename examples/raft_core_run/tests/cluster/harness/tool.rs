//! Programs of the system that tests make use of.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs `command` with this input, to its end.
///
/// # Errors
/// What it was, and what it said, if it cannot be started or fails.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<(), String> {
    let spawned = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let ended = spawned.and_then(|mut child| {
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    });
    match ended {
        Ok(output) if output.status.success() => Ok(()),
        other => Err(format!("{command:?} with {input:?}: {other:?}")),
    }
}
