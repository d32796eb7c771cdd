//! How a command ends, and what its user is told.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use rpc::{Code, RpcError};

/// Exit code and what to tell the user, in one line.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 1: something did not work.
    Failed(String),
    /// Exit code 2: the command line asks for something that cannot be.
    Usage(String),
}

impl Failure {
    /// A failed call, told as `what: CODE: why`, and what might help.
    pub(crate) fn of_call(what: impl Display, error: &RpcError) -> Failure {
        let hint = match error.code() {
            Code::Unavailable => " (is a server of this RPC layer running there?)",
            Code::DeadlineExceeded => " (--timeout gives it longer)",
            Code::Unauthenticated => " (--token says who you are)",
            _ => "",
        };
        Failure::Failed(format!("{what}: {error}{hint}"))
    }

    /// Nobody reads standard output any more.
    pub(crate) fn output(error: &io::Error) -> Failure {
        Failure::Failed(format!("cannot write to standard output: {error}"))
    }
}

/// Prints a line for the user.
///
/// # Errors
/// When nobody reads standard output any more.
pub(crate) fn print(line: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|error| Failure::output(&error))
}

/// Turns a command's end into its exit code; reports a failure on stderr.
pub(crate) fn exit_code(end: Result<(), Failure>) -> ExitCode {
    let (text, code) = match end {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(text)) => (text, 1),
        Err(Failure::Usage(text)) => (text, 2),
    };
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr(), "kvctl: {}", in_one_line(&text));
    ExitCode::from(code)
}

/// A server's text may have any number of lines.
pub(crate) fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}
