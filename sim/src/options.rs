//! What a run is told.

/// How one seed is run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Voters at the beginning; 0: three or five, as the seed has it.
    pub nodes: u64,
    /// Events with faults; then the faults stop, and the cluster must recover.
    pub events: u64,
    /// Keep the last lines of what happened, to be printed with a violation.
    pub trace: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            nodes: 0,
            events: 20_000,
            trace: false,
        }
    }
}
