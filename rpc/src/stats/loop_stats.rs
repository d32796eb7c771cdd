//! [`LoopStats`]: what one event loop has counted for one provider.

use std::sync::OnceLock;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::cells::Cell64;
use super::histogram::HistogramCells;
use super::rate::RateCells;
use crate::error::Code;

/// The position of each code in [`Code::ALL`], by the code's number.
const POSITIONS: [usize; 17] = {
    let mut positions = [0; 17];
    let mut position = 0;
    while position < Code::ALL.len() {
        positions[Code::ALL[position].number() as usize] = position;
        position += 1;
    }
    positions
};

/// The counters of one method on one loop.
#[derive(Debug)]
pub(super) struct MethodCells {
    pub(super) begun: Cell64,
    /// By the code's position in [`Code::ALL`].
    pub(super) ended: [Cell64; Code::ALL.len()],
    pub(super) latency: HistogramCells,
    pub(super) rate: RateCells,
}

impl MethodCells {
    pub(super) fn new() -> MethodCells {
        MethodCells {
            begun: Cell64::default(),
            ended: Default::default(),
            latency: HistogramCells::new(),
            rate: RateCells::default(),
        }
    }

    /// `n` calls that arrived together end with `code`, `up` after the provider was started.
    pub(super) fn ended(&self, took: Duration, up: Duration, code: Code, n: u64) {
        self.ended[POSITIONS[code.number() as usize]].add(n);
        self.latency.record(took, n);
        self.rate.add(up.as_secs(), n);
    }
}

/// What one event loop counts for one provider. Written on the loop's thread alone, read anywhere.
///
/// A method is known by its position among all methods of the provider. Positions beyond those are
/// of methods that do not exist, which are counted together.
#[derive(Debug)]
pub(crate) struct LoopStats {
    started: Instant,
    pub(super) methods: Box<[MethodCells]>,
    pub(super) bytes_in: Cell64,
    pub(super) bytes_out: Cell64,
    pub(super) items: Cell64,
    /// The thread that writes, as the first record tells; looked at in debug builds.
    writer: OnceLock<ThreadId>,
}

impl LoopStats {
    pub(super) fn new(methods: usize, started: Instant) -> LoopStats {
        LoopStats {
            started,
            // One more for the calls of methods that do not exist.
            methods: (0..=methods).map(|_| MethodCells::new()).collect(),
            bytes_in: Cell64::default(),
            bytes_out: Cell64::default(),
            items: Cell64::default(),
            writer: OnceLock::new(),
        }
    }

    fn cells(&self, method: usize) -> &MethodCells {
        &self.methods[method.min(self.methods.len() - 1)]
    }

    fn is_writer(&self) -> bool {
        let current = thread::current().id();
        *self.writer.get_or_init(|| current) == current
    }

    /// `n` calls of a method were begun, or refused at once: each call that is counted as ended was
    /// counted here.
    pub(crate) fn begun(&self, method: usize, n: u64) {
        debug_assert!(self.is_writer(), "one thread counts");
        self.cells(method).begun.add(n);
    }

    /// `n` calls of a method whose requests arrived together have ended with `code`, and their
    /// replies are collected `now`.
    pub(crate) fn ended(&self, method: usize, arrived: Instant, now: Instant, code: Code, n: u64) {
        debug_assert!(self.is_writer(), "one thread counts");
        let took = now.saturating_duration_since(arrived);
        let up = now.saturating_duration_since(self.started);
        self.cells(method).ended(took, up, code, n);
    }

    /// `n` items of streams are collected for sending.
    pub(crate) fn items(&self, n: u64) {
        debug_assert!(self.is_writer(), "one thread counts");
        self.items.add(n);
    }

    /// Bytes have arrived.
    pub(crate) fn received(&self, bytes: usize) {
        debug_assert!(self.is_writer(), "one thread counts");
        self.bytes_in.add(bytes as u64);
    }

    /// Bytes have left.
    pub(crate) fn sent(&self, bytes: usize) {
        debug_assert!(self.is_writer(), "one thread counts");
        self.bytes_out.add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_counter_of_its_own() {
        let stats = LoopStats::new(1, Instant::now());
        let now = Instant::now();
        for (position, code) in Code::ALL.into_iter().enumerate() {
            stats.ended(0, now, now, code, position as u64 + 1);
        }
        for (position, cell) in stats.methods[0].ended.iter().enumerate() {
            assert_eq!(cell.get(), position as u64 + 1);
        }
    }

    #[test]
    #[should_panic(expected = "one thread counts")]
    #[cfg(debug_assertions)]
    fn a_second_writer_is_noticed() {
        let stats = LoopStats::new(1, Instant::now());
        stats.begun(0, 1);
        thread::scope(|scope| {
            let other = scope.spawn(|| stats.begun(0, 1));
            if let Err(panic) = other.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}
