//! What is printed while rounds go on: a line for each on stdout, a progress bar on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Output {
    /// On stderr, and hidden unless that is a terminal.
    bar: ProgressBar,
    /// Lines and bar share the screen: the bar steps aside for each line.
    shared_screen: bool,
    quiet: bool,
}

impl Output {
    /// `rounds`: of all clients; 0: without end.
    pub(crate) fn new(rounds: u64) -> Self {
        let (bar, template) = match rounds {
            0 => (
                ProgressBar::new_spinner(),
                "{spinner} {pos} rounds, {per_sec}, {elapsed}",
            ),
            rounds => (
                ProgressBar::new(rounds),
                "{wide_bar} {pos}/{len} rounds, {per_sec}",
            ),
        };
        let style = ProgressStyle::with_template(template).expect("its keys are indicatif's");
        bar.set_style(style);
        Self {
            bar,
            shared_screen: io::stdout().is_terminal(),
            quiet: false,
        }
    }

    #[cfg(test)]
    pub(crate) fn discard() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            shared_screen: false,
            quiet: true,
        }
    }

    /// A round has read `value`. The line is the original's.
    pub(crate) fn value(&self, value: &[u8]) -> Result<(), String> {
        self.bar.inc(1);
        if self.quiet {
            return Ok(());
        }
        let line = [b"get return :{", value, b"}\n"].concat();
        let print = || io::stdout().lock().write_all(&line);
        let printed = if self.shared_screen {
            self.bar.suspend(print)
        } else {
            print()
        };
        printed.map_err(|error| format!("cannot write to standard output: {error}"))
    }

    /// The rounds are over; the bar goes.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
