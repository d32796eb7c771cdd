//! One thread that runs what has to happen later: the end of a pause, of a wait.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Runs closures when they are due, on a thread of its own, which ends with the timer.
///
/// They must be short. A call has at most one at a time, the end of its pause; and it may leave one
/// behind, a look at the waiting room when its deadline comes.
pub(crate) struct Timer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    due: BinaryHeap<Entry>,
    /// Orders what is due at the same time, by arrival.
    arrivals: u64,
    closed: bool,
}

struct Entry {
    at: Instant,
    arrival: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl Timer {
    /// # Errors
    /// The system refuses another thread.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("clerk-timer".into())
            .spawn(move || of_thread.run())?;
        Ok(Self { shared })
    }

    /// Has `run` run at `at`, or as soon after it as possible.
    pub(crate) fn at(&self, at: Instant, run: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        let arrival = state.arrivals;
        state.arrivals += 1;
        let is_next = state.due.peek().is_none_or(|next| at < next.at);
        state.due.push(Entry {
            at,
            arrival,
            run: Box::new(run),
        });
        drop(state);
        if is_next {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Timer {
    /// Not joined: the last clerk may be dropped by a callback that the timer itself runs.
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.closed {
            match state.due.peek().map(|next| next.at) {
                None => self.changed.wait(&mut state),
                Some(at) if at > Instant::now() => {
                    self.changed.wait_until(&mut state, at);
                }
                Some(_) => {
                    let next = state.due.pop().expect("peeked at it under the same lock");
                    drop(state);
                    // A caller's callback may panic; the other calls still need the thread.
                    if catch_unwind(AssertUnwindSafe(next.run)).is_err() {
                        tracing::error!("a callback panicked; see its message above");
                    }
                    state = self.state.lock();
                }
            }
        }
        // Closures may own what closes other things: drop them outside the lock.
        let rest = std::mem::take(&mut state.due);
        drop(state);
        drop(rest);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The heap's top is the greatest: what is due first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.arrival).cmp(&(self.at, self.arrival))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn runs_in_order_of_time_and_not_early() {
        let timer = Timer::start().unwrap();
        let (sender, receiver) = crossbeam_channel::bounded(8);
        let now = Instant::now();
        for after_ms in [30_u64, 10, 20, 0] {
            let sender = sender.clone();
            let at = now + Duration::from_millis(after_ms);
            timer.at(at, move || {
                sender.send((after_ms, Instant::now() >= at)).unwrap();
            });
        }
        let order: Vec<_> = (0..4)
            .map(|_| {
                receiver
                    .recv_timeout(Duration::from_secs(30))
                    .expect("due long ago")
            })
            .collect();
        assert_eq!(order, [(0, true), (10, true), (20, true), (30, true)]);
    }

    /// What a caller's callback does costs nobody else the end of a pause.
    #[test]
    fn a_panic_ends_only_what_it_came_from() {
        let timer = Timer::start().unwrap();
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let now = Instant::now();
        timer.at(now, || panic!("a callback's own fault"));
        timer.at(now, move || sender.send(()).unwrap());
        assert_eq!(receiver.recv_timeout(Duration::from_secs(30)), Ok(()));
    }

    #[test]
    fn what_is_not_due_is_dropped_with_the_timer() {
        let timer = Timer::start().unwrap();
        let (sender, receiver) = crossbeam_channel::bounded::<()>(0);
        timer.at(Instant::now() + Duration::from_hours(1), move || {
            drop(sender);
        });
        drop(timer);
        let ended = receiver.recv_timeout(Duration::from_secs(30));
        assert_eq!(
            ended,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected)
        );
    }
}
