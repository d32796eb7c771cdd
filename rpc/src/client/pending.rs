//! Calls under way: what waits for their ends, and when those come at the latest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Code, RpcError};

/// A call's encoded reply, or why there is none.
pub(super) type Outcome = Result<Bytes, RpcError>;

/// Who is told how a call ended.
pub(super) enum Completion {
    Blocking(Arc<Waiter>),
    Callback(Box<dyn FnOnce(Outcome) + Send>),
}

/// A call under way. It ends once: dropped without an outcome it ends with `CANCELLED`.
pub(super) struct Pending {
    completion: Option<Completion>,
    pub(super) timeout: Duration,
    /// Where its frame ends in the bytes of this connection; unknown before it is connected.
    pub(super) frame_end: u64,
}

impl Pending {
    pub(super) fn new(completion: Completion, timeout: Duration) -> Pending {
        Pending {
            completion: Some(completion),
            timeout,
            frame_end: u64::MAX,
        }
    }

    /// Ends the call.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.complete(outcome);
    }

    fn complete(&mut self, outcome: Outcome) {
        match self.completion.take() {
            Some(Completion::Blocking(waiter)) => waiter.finish(outcome),
            Some(Completion::Callback(callback)) => {
                let panicked = catch_unwind(AssertUnwindSafe(move || callback(outcome))).is_err();
                if panicked {
                    tracing::error!("the callback of a call panicked");
                }
            }
            None => {}
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.completion.is_some() {
            let text = "the channel's event loop has ended";
            let error = RpcError::new(Code::Cancelled, text).with_may_have_executed(true);
            self.complete(Err(error));
        }
    }
}

/// A thread that waits for its call.
pub(super) struct Waiter {
    thread: Thread,
    outcome: Mutex<Option<Outcome>>,
}

impl Waiter {
    /// For the current thread.
    pub(super) fn new() -> Arc<Waiter> {
        Arc::new(Waiter {
            thread: thread::current(),
            outcome: Mutex::new(None),
        })
    }

    fn finish(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        self.thread.unpark();
    }

    /// Waits for the end of the call, which every call has.
    pub(super) fn wait(&self) -> Outcome {
        loop {
            if let Some(outcome) = self.outcome.lock().take() {
                return outcome;
            }
            thread::park();
        }
    }
}

/// The calls under way on one channel, by request id, with their deadlines.
#[derive(Default)]
pub(super) struct InFlight {
    calls: HashMap<u64, Pending, BuildHasherDefault<IdHasher>>,
    /// Also holds deadlines of calls that have ended: fewer than twice those under way and some.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
}

/// Below this many deadlines it is not worth while to drop those of calls that have ended.
const CLEAN_DEADLINES_MIN: usize = 256;

impl InFlight {
    pub(super) fn insert(&mut self, id: u64, pending: Pending, deadline: Instant) {
        if self.deadlines.len() >= CLEAN_DEADLINES_MIN + 2 * self.calls.len() {
            let calls = &self.calls;
            self.deadlines
                .retain(|Reverse((_, id))| calls.contains_key(id));
        }
        self.deadlines.push(Reverse((deadline, id)));
        self.calls.insert(id, pending);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Pending> {
        self.calls.remove(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Pending> {
        self.calls.get_mut(&id)
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.calls.contains_key(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Takes a call whose deadline has passed.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Pending> {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek() {
            if let Some(pending) = self.calls.get(&id).map(|_| ()).and_then(|()| {
                if deadline <= now {
                    self.calls.remove(&id)
                } else {
                    None
                }
            }) {
                self.deadlines.pop();
                return Some(pending);
            }
            if self.calls.contains_key(&id) {
                return None;
            }
            self.deadlines.pop();
        }
        None
    }

    /// When the next call expires. May be too early, by a call that has ended; never too late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.calls.is_empty() {
            return None;
        }
        self.deadlines
            .peek()
            .map(|&Reverse((deadline, _))| deadline)
    }

    /// Takes all calls, the oldest first.
    pub(super) fn take_all(&mut self) -> Vec<Pending> {
        self.deadlines.clear();
        let mut calls: Vec<_> = self.calls.drain().collect();
        calls.sort_unstable_by_key(|&(id, _)| id);
        calls.into_iter().map(|(_, pending)| pending).collect()
    }

    #[cfg(test)]
    fn deadlines(&self) -> usize {
        self.deadlines.len()
    }
}

/// Request ids are counted up, which one multiplication spreads well enough.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio. The table looks at the low and the highest bits.
        let spread = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn pending(name: u64, ended: &mpsc::Sender<(u64, Outcome)>) -> Pending {
        let ended = ended.clone();
        let callback = move |outcome| ended.send((name, outcome)).unwrap();
        Pending::new(
            Completion::Callback(Box::new(callback)),
            Duration::from_secs(1),
        )
    }

    #[test]
    fn calls_expire_in_the_order_of_their_deadlines_and_ended_ones_do_not() {
        let (sender, ended) = mpsc::channel();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut in_flight = InFlight::default();
        for (id, ms) in [(1, 30), (2, 10), (3, 20)] {
            in_flight.insert(id, pending(id, &sender), at(ms));
        }
        assert_eq!(in_flight.next_deadline(), Some(at(10)));
        in_flight.remove(2).unwrap().finish(Ok(Bytes::new()));
        assert!(in_flight.pop_expired(at(19)).is_none());
        let expired = in_flight.pop_expired(at(30)).unwrap();
        expired.finish(Err(RpcError::new(Code::DeadlineExceeded, "late")));
        drop(in_flight.pop_expired(at(30)));
        assert!(in_flight.pop_expired(at(99)).is_none() && in_flight.is_empty());
        let ends: Vec<u64> = ended.try_iter().map(|(name, _)| name).collect();
        assert_eq!(ends, [2, 3, 1]);
    }

    #[test]
    fn deadlines_of_ended_calls_do_not_pile_up() {
        let (sender, _ended) = mpsc::channel();
        let far = Instant::now() + Duration::from_secs(1000);
        let mut in_flight = InFlight::default();
        for id in 0..100_000 {
            in_flight.insert(id, pending(id, &sender), far);
            if id >= 10 {
                in_flight.remove(id - 10).unwrap().finish(Ok(Bytes::new()));
            }
            assert!(in_flight.deadlines() <= CLEAN_DEADLINES_MIN + 2 * 11 + 1);
        }
    }

    #[test]
    fn a_call_that_is_forgotten_ends_too() {
        let (sender, ended) = mpsc::channel();
        drop(pending(7, &sender));
        let (name, outcome) = ended.try_recv().unwrap();
        assert_eq!((name, outcome.unwrap_err().code()), (7, Code::Cancelled));
    }

    #[test]
    fn a_callback_that_panics_is_caught() {
        let callback = |_| panic!("in a callback (expected in this test)");
        let completion = Completion::Callback(Box::new(callback));
        Pending::new(completion, Duration::ZERO).finish(Ok(Bytes::new()));
    }
}
