//! Event loops: threads that each drive their own sockets and timers (muduo's rule: one loop a
//! thread, and what belongs to a loop is touched by its thread alone).
//!
//! ```text
//!  other threads            one loop's thread
//!  ─────────────            ──────────────────────────────────────────────────────────
//!  post() ──► mailbox ──┐   ┌► poll ─► sockets ─► timers ─► mailbox ─► flushes ─┐
//!             (one wake │   │          on_ready   on_timer  on_notify  on_flush │
//!              for many)└───┤                                                   │
//!  on the loop's own thread:└───────────────────────────────────────────────────┘
//!  post() ──► local list (no lock, no wake)
//! ```
//!
//! A source that has something to send when it has been called is flushed right then; the flushes at
//! the end are of those that others gave something meanwhile.
//!
//! What runs on a loop is a [`Source`]: the server's acceptor and connections, the client's
//! channels. The loop knows none of them.

mod event_loop;
mod mailbox;
mod patience;
mod share;
mod timers;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use event_loop::{Next, Ready, Source, Turn, flush_later, now};
pub(crate) use mailbox::{LoopHandle, Post, SourceId, on_any_loop, on_group};
pub(crate) use patience::Patience;
pub(crate) use share::{Batch, Share};

/// The longest time that anything waits for; what may take longer counts as taking that long. It
/// fits 31 bits of milliseconds, as epoll's timeout must (and those on the wire do), and keeps
/// clocks from overflowing.
pub(crate) const WAIT_MAX: Duration = Duration::from_hours(24 * 24);

/// A group of event loops, one thread each.
///
/// A provider and any number of channels may share it; a node of a cluster runs all its traffic on
/// one thread that way. A clone is another handle on the same threads; they end when the last one
/// is dropped.
///
/// A loop with nothing to do sleeps. Where work has come soon after lately, it first watches for
/// some, for at most 50 us, and lets others that want the processor have it meanwhile.
#[derive(Clone, Debug)]
pub struct EventLoops {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    loops: Vec<Arc<LoopHandle>>,
    next: AtomicUsize,
}

impl EventLoops {
    /// Starts `threads` loops (at least one), whose threads are called `name-0`, `name-1`, ...
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor.
    pub fn start(threads: usize, name: &str) -> io::Result<EventLoops> {
        static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);
        let group = NEXT_GROUP.fetch_add(1, Ordering::Relaxed);
        // Dropped on an early return, this ends the loops started so far.
        let mut shared = Shared {
            loops: Vec::new(),
            next: AtomicUsize::new(0),
        };
        for index in 0..threads.max(1) {
            shared
                .loops
                .push(event_loop::start(group, index, &format!("{name}-{index}"))?);
        }
        Ok(EventLoops {
            shared: Arc::new(shared),
        })
    }

    /// The loop that all channels without loops of their own share. It ends with the last of them.
    pub(crate) fn common() -> io::Result<EventLoops> {
        static COMMON: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
        let mut common = COMMON.lock();
        if let Some(shared) = common.upgrade() {
            return Ok(EventLoops { shared });
        }
        let loops = EventLoops::start(1, "rpc-client")?;
        *common = Arc::downgrade(&loops.shared);
        Ok(loops)
    }

    /// The loops, in the order of their threads' names.
    pub(crate) fn handles(&self) -> &[Arc<LoopHandle>] {
        &self.shared.loops
    }

    /// The next loop in turn.
    pub(crate) fn pick(&self) -> &Arc<LoopHandle> {
        let turn = self.shared.next.fetch_add(1, Ordering::Relaxed);
        &self.shared.loops[turn % self.shared.loops.len()]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for handle in &self.loops {
            // A loop that is gone already needs no stop.
            let _ = handle.post(Post::Stop);
        }
    }
}

#[cfg(test)]
#[path = "reactor_test.rs"]
mod tests;
