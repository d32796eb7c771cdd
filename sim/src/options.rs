//! What a run is told.

/// How one seed is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// Voters at the beginning; 0: three or five, as the seed has it.
    pub nodes: u64,
    /// Events with faults; then the faults stop, and the cluster must recover.
    pub events: u64,
    /// What of [`FAULTS`](crate::FAULTS) does not come.
    pub without: Faults,
    /// Keep the last lines of what happened, to be printed with a violation.
    pub trace: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            nodes: 0,
            events: 20_000,
            without: Faults::default(),
            trace: false,
        }
    }
}

/// Some of [`FAULTS`](crate::FAULTS), by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    bits: u64,
}

impl Faults {
    /// True if it was not among them.
    pub fn insert(&mut self, fault: usize) -> bool {
        let before = self.bits;
        self.bits |= 1 << fault;
        self.bits != before
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contains(self, fault: usize) -> bool {
        self.bits >> fault & 1 == 1
    }
}
