//! What the command lines of both programs share: how arguments are read and how a program ends.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;

/// Exit code and what to tell the user, in one line.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1: something did not work.
    Failed(String),
    /// Exit code 2: the command line asks for something that cannot be.
    Usage(String),
}

impl Failure {
    /// A failure told as `what: why`.
    pub fn of(what: impl Display) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure::Failed(format!("{what}: {error}"))
    }
}

/// Turns a program's end into its exit code; reports a failure on stderr.
#[must_use]
pub fn exit_code(program: &str, end: Result<(), Failure>) -> ExitCode {
    let (text, code) = match end {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(text)) => (text, 1),
        Err(Failure::Usage(text)) => (text, 2),
    };
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "{program}: {text}");
    ExitCode::from(code)
}

/// Parses a command line; `None` when its user only asked for `--help` or `--version`.
///
/// # Errors
/// [`Failure::Usage`] with clap's lines (what is wrong, a tip) in one.
pub fn parse<C: clap::Parser>() -> Result<Option<C>, Failure> {
    let error = match C::try_parse() {
        Ok(cli) => return Ok(Some(cli)),
        Err(error) => error,
    };
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        error
            .print()
            .map_err(Failure::of("cannot print the help"))?;
        return Ok(None);
    }
    let text = error.render().to_string();
    let told = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<&str> = told
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let told = told.join(" ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    Err(Failure::Usage(format!("{told} (--help shows examples)")))
}

/// The shortest span that is measured: some requests are answered within it.
pub const SECONDS_MIN: f64 = 0.05;

/// Reads a number of seconds from a command line.
///
/// # Errors
/// What to write instead.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (SECONDS_MIN..=3600.0).contains(seconds));
    seconds.ok_or_else(|| format!("write a number of seconds from {SECONDS_MIN} to 3600"))
}

/// The cell of that name or, if there is none, those with `text` in their names.
#[must_use]
pub fn selected<C>(mut cells: Vec<C>, text: &str, name: impl Fn(&C) -> &str) -> Vec<C> {
    let is_name = cells.iter().any(|cell| name(cell) == text);
    cells.retain(|cell| {
        if is_name {
            name(cell) == text
        } else {
            name(cell).contains(text)
        }
    });
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cells_full_name_selects_it_alone() {
        let names = || vec!["put/threads-1", "put/threads-16", "get/threads-1"];
        let select = |text| selected(names(), text, |name| name);
        assert_eq!(select("put/threads-1"), ["put/threads-1"]);
        assert_eq!(select("threads-1"), names());
        assert_eq!(select("put"), ["put/threads-1", "put/threads-16"]);
        assert_eq!(select(""), names());
    }
}
