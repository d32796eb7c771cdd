//! [`Delays`]: what a channel does later, on its event loop: a retry, a probe of a server that is
//! down.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::reactor::{self, LoopHandle, Next, Post, Ready, Source, SourceId, Turn, WAIT_MAX};

/// Runs on the loop's thread. Dropped instead, if the loop or the channel has ended. It may run an
/// interceptor or a caller's callback, so it may panic; that costs the others nothing.
type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Delays {
    handle: Arc<LoopHandle>,
    state: Mutex<State>,
    /// Above this many jobs there is no room for retries.
    jobs_max: usize,
}

#[derive(Default)]
struct State {
    /// Ordered by their times, and by their numbers where those are equal.
    times: BinaryHeap<Reverse<(Instant, u64)>>,
    jobs: BTreeMap<u64, Job>,
    last: u64,
    source: Option<SourceId>,
    /// The loop was told to look, or has not started yet, and has not looked since.
    notified: bool,
    closed: bool,
}

impl Delays {
    pub(super) fn start(handle: &Arc<LoopHandle>, jobs_max: usize) -> Arc<Delays> {
        let delays = Arc::new(Delays {
            handle: Arc::clone(handle),
            state: Mutex::new(State {
                notified: true,
                ..State::default()
            }),
            jobs_max,
        });
        let clock = Clock(Arc::clone(&delays));
        let build = move |turn: &mut Turn<'_>| {
            clock.0.state.lock().source = Some(turn.id);
            let next = clock.look(turn);
            (next == Next::Keep).then(|| Box::new(clock) as Box<dyn Source>)
        };
        // Whoever starts this holds the loops, so they have not ended.
        let _ = handle.post(Post::Add(Box::new(build)));
        delays
    }

    /// Whether another retry may wait.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state.lock();
        !state.closed && state.jobs.len() < self.jobs_max
    }

    /// Runs `job` after a pause.
    pub(super) fn after(&self, pause: Duration, job: impl FnOnce() + Send + 'static) {
        let at = reactor::now() + pause.min(WAIT_MAX);
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            drop(job);
            return;
        }
        state.last += 1;
        let number = state.last;
        state.times.push(Reverse((at, number)));
        state.jobs.insert(number, Box::new(job));
        self.notify(state);
    }

    /// Drops what is left, now and later.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        self.notify(state);
        drop(jobs);
    }

    fn notify(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::replace(&mut state.notified, true) {
            return;
        }
        let source = state
            .source
            .expect("a clock that has looked has said where it is");
        drop(state);
        // A loop that has ended has dropped the clock, which closes this.
        let _ = self.handle.post(Post::Notify(source));
    }
}

/// The half on the loop.
struct Clock(Arc<Delays>);

impl Clock {
    fn look(&self, turn: &mut Turn<'_>) -> Next {
        let mut state = self.0.state.lock();
        state.notified = false;
        if state.closed {
            return Next::Close;
        }
        if let Some(&Reverse((at, _))) = state.times.peek() {
            turn.alarm_by(at);
        }
        Next::Keep
    }

    /// Takes a job that is due and is not younger than `last`.
    fn take_due(&self, now: Instant, last: u64) -> Option<Job> {
        let mut state = self.0.state.lock();
        let &Reverse((at, number)) = state.times.peek()?;
        if at > now || number > last {
            return None;
        }
        state.times.pop();
        state.jobs.remove(&number)
    }
}

impl Source for Clock {
    fn on_ready(&mut self, _ready: Ready, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next {
        self.look(turn)
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next {
        let now = reactor::now();
        // Jobs that these jobs leave wait for the next turn: other sources have theirs before.
        let last = self.0.state.lock().last;
        while let Some(job) = self.take_due(now, last) {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("what a channel did after a pause panicked");
            }
        }
        self.look(turn)
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let jobs = {
            let mut state = self.0.state.lock();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        drop(jobs);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::reactor::EventLoops;

    #[test]
    fn a_job_that_panics_costs_the_others_nothing() {
        let loops = EventLoops::start(1, "delays").unwrap();
        let delays = Delays::start(&loops.handles()[0], 10);
        let (sender, ran) = channel();
        let later = sender.clone();
        delays.after(Duration::ZERO, || {
            panic!("a job that panics (expected in this test)")
        });
        delays.after(Duration::from_millis(20), move || {
            later.send("later").unwrap();
        });
        assert_eq!(ran.recv_timeout(Duration::from_secs(30)), Ok("later"));
        delays.after(Duration::ZERO, move || sender.send("after it").unwrap());
        assert_eq!(ran.recv_timeout(Duration::from_secs(30)), Ok("after it"));
        delays.close();
    }
}
