//! What a server counts, and what it costs: next to nothing.
//!
//! ```text
//!   loop 0's thread ──► LoopStats 0 ──┐
//!   loop 1's thread ──► LoopStats 1 ──┼──► ServerMeter::snapshot ──► ServerStats
//!   acceptor        ──► accepted,   ──┤      (any thread, sums over the loops)
//!                       refused       │
//!   any thread      ──► strays      ──┘
//! ```
//!
//! Every counter of a loop has one writer, the loop's thread. So it is added to with a load and a
//! store, without a locked instruction, and no two threads write to one cache line at a time. Calls
//! are recorded when their replies are collected for sending, in runs: consecutive replies of the
//! same method and code to requests that arrived together are one record, and one clock reading
//! serves all connections that are flushed in a turn. A call whose connection has gone ends unseen
//! by any loop; such strays are rare, and counted under a lock.
//!
//! Memory is fixed when the provider starts: about [`histogram::BUCKETS`] * 8 bytes for each method
//! and loop, and once more for the strays.

mod cells;
mod connection;
pub(crate) mod histogram;
mod loop_stats;
mod meter;
mod rate;

pub use connection::{ConnectionInfo, Dialect};
pub use histogram::LatencyHistogram;
pub use meter::{MethodStats, ServerStats, ServiceStats, WorkerQueue};

pub(crate) use {
    connection::ConnectionCells,
    loop_stats::LoopStats,
    meter::{ServerMeter, ServiceLayout},
};
