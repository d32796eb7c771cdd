//! [`Book`]: the calls of one connection whose end somebody waits for.
//!
//! Most calls are never asked about, so a call is entered when its handler asks whether it is
//! cancelled, or when it streams; all others cost nothing here.
//!
//! ```text
//!  CANCEL ──────────────┐                        ┌──► callbacks, on the loop's thread, without a lock
//!  deadline ────────────┼──► the call's entry ───┤
//!  connection's end ────┘                        └──► the stream is closed, its senders wake
//! ```

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::call::Call;
use super::call_state::Entering;
use super::flow::Flow;
use super::sync::Mutex;
use super::sync::atomic::{AtomicUsize, Ordering};
use crate::error::{Code, RpcError};

/// What a handler wants done when something happens.
pub(crate) type Callback = Box<dyn FnOnce() + Send>;

/// What a callback is about: once it is gone nobody wants the callback any more. `None`: the call.
pub(crate) type About = Option<Weak<dyn Any + Send + Sync>>;

/// Runs callbacks. A panic in one is logged and costs the others nothing.
pub(crate) fn run_all(callbacks: impl IntoIterator<Item = Callback>) {
    for callback in callbacks {
        if catch_unwind(AssertUnwindSafe(callback)).is_err() {
            tracing::error!("a callback of a call panicked");
        }
    }
}

/// What a handler learns that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Wanted,
    Canceled,
    /// Too late to ask.
    Answered,
}

#[derive(Default)]
pub(super) struct Book {
    pages: Mutex<Pages>,
    /// How many ids `Pages::early` has, so that most calls need not look; not 0 once it is closed.
    early: AtomicUsize,
}

/// Names an entry: by the call's id, and, because a careless caller may use one for several calls
/// at a time, by the entry's number. What the caller says of an id concerns all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    id: u64,
    entry: u64,
}

impl Key {
    /// Those of all calls with this id.
    fn all_of(id: u64) -> RangeInclusive<Key> {
        let key = |entry| Key { id, entry };
        key(0)..=key(u64::MAX)
    }
}

#[derive(Default)]
struct Pages {
    /// Bounded by the calls in flight.
    calls: BTreeMap<Key, Entry>,
    /// Counts the entries that were ever made.
    entries: u64,
    /// Of entries that are not cancelled.
    deadlines: BTreeSet<(Instant, Key)>,
    /// Ids that were cancelled and are not entered: of calls that were not asked about yet, or that
    /// were answered already. Bounded, see [`Book::cancel`]; the smallest, which is usually the
    /// oldest, goes first.
    early: BTreeSet<u64>,
    /// The connection is gone.
    closed: bool,
}

#[derive(Default)]
struct Entry {
    canceled: bool,
    deadline: Option<Instant>,
    callbacks: Callbacks,
    flow: Option<Arc<Flow>>,
}

/// The callbacks of one call. A long call may leave any number of them about things that do not
/// last, as its nested calls are, so there is room for twice those that are wanted.
#[derive(Default)]
struct Callbacks {
    left: Vec<(Callback, About)>,
    /// With so many of them, it is time to look for those that nobody wants.
    sweep_at: usize,
}

impl Callbacks {
    /// Below it there is nothing to be won.
    const SWEEP_AT_MIN: usize = 8;

    fn add(&mut self, callback: Callback, about: About) {
        if self.left.len() >= self.sweep_at {
            let is_wanted = |about: &About| about.as_ref().is_none_or(|it| it.strong_count() > 0);
            self.left.retain(|(_, about)| is_wanted(about));
            self.sweep_at = Self::SWEEP_AT_MIN.max(2 * self.left.len());
        }
        self.left.push((callback, about));
    }

    fn take(&mut self) -> impl Iterator<Item = Callback> {
        self.left.drain(..).map(|(callback, _)| callback)
    }
}

/// What follows from a cancellation once no lock is held.
#[derive(Default)]
#[must_use]
pub(super) struct Consequences {
    callbacks: Vec<Callback>,
    flows: Vec<Arc<Flow>>,
}

impl Consequences {
    fn add(&mut self, entry: &mut Entry) {
        entry.canceled = true;
        self.callbacks.extend(entry.callbacks.take());
        self.flows.extend(entry.flow.clone());
    }

    /// Closes streams for a reason and runs callbacks.
    pub(super) fn follow(self, code: Code, text: &'static str) {
        for flow in self.flows {
            flow.close(RpcError::new(code, text).with_may_have_executed(true));
        }
        run_all(self.callbacks);
    }
}

impl Pages {
    /// Finds or makes a call's entry.
    fn enter(&mut self, call: &Call, early: &AtomicUsize) -> Result<(Key, &mut Entry), Asked> {
        if self.closed {
            return Err(Asked::Canceled);
        }
        let id = call.request_id;
        let (entry, canceled) = match call.enter_book(self.entries) {
            Entering::Answered => return Err(Asked::Answered),
            Entering::Again(entry) => (entry, false),
            Entering::First => {
                let canceled = self.early.remove(&id);
                early.store(self.early.len(), Ordering::Relaxed);
                self.entries += 1;
                (self.entries - 1, canceled)
            }
        };
        let key = Key { id, entry };
        let entry = self.calls.entry(key).or_default();
        entry.canceled |= canceled;
        Ok((key, entry))
    }

    /// Notes a deadline; `true`: it is earlier than all others.
    fn watch(&mut self, key: Key, deadline: Instant) -> bool {
        let Some(entry) = self.calls.get_mut(&key) else {
            return false;
        };
        if entry.deadline.is_some() || entry.canceled {
            return false;
        }
        entry.deadline = Some(deadline);
        let earliest = self.deadlines.first().is_none_or(|&(at, _)| deadline < at);
        self.deadlines.insert((deadline, key));
        earliest
    }

    fn unwatch(&mut self, key: Key, entry: &Entry) {
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
    }
}

impl Book {
    /// Whether a call is cancelled. It is watched from now on.
    pub(super) fn ask(&self, call: &Call) -> Asked {
        let mut pages = self.pages.lock();
        match pages.enter(call, &self.early) {
            Ok((_, entry)) if entry.canceled => Asked::Canceled,
            Ok(_) => Asked::Wanted,
            Err(asked) => asked,
        }
    }

    /// Leaves a callback, which is forgotten some time after what it is about. What comes back is
    /// to be run at once (with [`Asked::Canceled`]) or dropped; otherwise the flag tells whether
    /// the connection must set its alarm earlier.
    pub(super) fn on_cancel(
        &self,
        call: &Call,
        callback: Callback,
        about: About,
    ) -> Result<bool, (Asked, Callback)> {
        let mut pages = self.pages.lock();
        let key = match pages.enter(call, &self.early) {
            Ok((_, entry)) if entry.canceled => return Err((Asked::Canceled, callback)),
            Ok((key, entry)) => {
                entry.callbacks.add(callback, about);
                key
            }
            Err(asked) => return Err((asked, callback)),
        };
        let deadline = call.deadline;
        Ok(deadline.is_some_and(|deadline| pages.watch(key, deadline)))
    }

    /// Enters a call that streams; `false`: its id is in use.
    pub(super) fn enter_stream(&self, call: &Call, flow: &Arc<Flow>) -> bool {
        let mut pages = self.pages.lock();
        if pages
            .calls
            .range(Key::all_of(call.request_id))
            .next()
            .is_some()
        {
            return false;
        }
        if let Ok((key, entry)) = pages.enter(call, &self.early) {
            entry.flow = Some(Arc::clone(flow));
            if let Some(deadline) = call.deadline {
                pages.watch(key, deadline);
            }
        }
        true
    }

    /// Whether a call that nobody has asked about was cancelled.
    pub(super) fn was_canceled(&self, id: u64) -> bool {
        self.early.load(Ordering::Relaxed) > 0 && {
            let pages = self.pages.lock();
            pages.closed || pages.early.contains(&id)
        }
    }

    /// The call with this id and entry ([`CallState::answer`]) is answered.
    ///
    /// [`CallState::answer`]: super::call_state::CallState::answer
    pub(super) fn leave(&self, id: u64, entry: u64) {
        let key = Key { id, entry };
        let entry = {
            let mut pages = self.pages.lock();
            let entry = pages.calls.remove(&key);
            if let Some(entry) = &entry {
                pages.unwatch(key, entry);
            }
            entry
        };
        // Callbacks that were not run are dropped here, with no lock held.
        drop(entry);
    }

    /// The stream of a call.
    pub(super) fn flow(&self, id: u64) -> Option<Arc<Flow>> {
        let pages = self.pages.lock();
        let mut entries = pages.calls.range(Key::all_of(id));
        entries.find_map(|(_, entry)| entry.flow.clone())
    }

    /// All streams.
    pub(super) fn flows(&self) -> Vec<Arc<Flow>> {
        let pages = self.pages.lock();
        let entries = pages.calls.values();
        entries.filter_map(|entry| entry.flow.clone()).collect()
    }

    // ---- for the connection, on its loop's thread

    /// The caller gave a call up. Ids without an entry are remembered, `early_max` of them.
    pub(super) fn cancel(&self, id: u64, early_max: usize) {
        let mut consequences = Consequences::default();
        {
            let mut guard = self.pages.lock();
            let pages = &mut *guard;
            let mut known = false;
            for (_, entry) in pages.calls.range_mut(Key::all_of(id)) {
                known = true;
                consequences.add(entry);
            }
            if !known {
                pages.early.insert(id);
                if pages.early.len() > early_max {
                    pages.early.pop_first();
                }
                self.early.store(pages.early.len(), Ordering::Relaxed);
            }
        }
        consequences.follow(Code::Cancelled, "the caller gave the call up");
    }

    /// A call with this id begins: what was said of an earlier one with it does not concern it.
    pub(super) fn forget_early(&self, id: u64) {
        if self.early.load(Ordering::Relaxed) > 0 {
            let mut pages = self.pages.lock();
            pages.early.remove(&id);
            self.early.store(pages.early.len(), Ordering::Relaxed);
        }
    }

    /// No call runs, so whatever was cancelled is answered.
    pub(super) fn forget_all_early(&self) {
        if self.early.load(Ordering::Relaxed) > 0 {
            self.pages.lock().early.clear();
            self.early.store(0, Ordering::Relaxed);
        }
    }

    /// When the first deadline passes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pages.lock().deadlines.first().map(|&(at, _)| at)
    }

    /// Cancels the calls whose deadline has passed.
    pub(super) fn expire(&self, now: Instant) {
        let mut consequences = Consequences::default();
        {
            let mut guard = self.pages.lock();
            let pages = &mut *guard;
            while let Some(&(at, key)) = pages.deadlines.first()
                && at <= now
            {
                pages.deadlines.pop_first();
                if let Some(entry) = pages.calls.get_mut(&key) {
                    entry.deadline = None;
                    consequences.add(entry);
                }
            }
        }
        consequences.follow(Code::DeadlineExceeded, "the deadline passed");
    }

    /// How many callbacks its calls have left.
    #[cfg(test)]
    pub(crate) fn callbacks(&self) -> usize {
        let pages = self.pages.lock();
        let entries = pages.calls.values();
        entries.map(|entry| entry.callbacks.left.len()).sum()
    }

    /// Whether it knows of no call.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let pages = self.pages.lock();
        pages.calls.is_empty() && pages.deadlines.is_empty() && pages.early.is_empty()
    }

    /// The connection is gone, and with it all who wait.
    pub(super) fn close(&self) {
        let mut consequences = Consequences::default();
        {
            let mut guard = self.pages.lock();
            let pages = &mut *guard;
            pages.closed = true;
            self.early.store(1, Ordering::Relaxed);
            pages.early.clear();
            pages.deadlines.clear();
            for entry in pages.calls.values_mut() {
                consequences.add(entry);
            }
            pages.calls.clear();
        }
        consequences.follow(Code::Unavailable, "the caller's connection is gone");
    }
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages = self.pages.lock();
        f.debug_struct("Book")
            .field("calls", &pages.calls.len())
            .field("early", &pages.early)
            .finish_non_exhaustive()
    }
}
