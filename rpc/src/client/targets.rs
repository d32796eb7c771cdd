//! [`Targets`]: the servers of one channel, and which of them gets the next call.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::delays::Delays;
use super::driver::Driver;
use super::options::ChannelOptions;
use super::pending::{Completion, Ended};
use super::shared::ChannelShared;
use super::state::ChannelState;
use crate::reactor::{LoopHandle, Next, Post, Source, Turn};

/// A server that is down is not probed more often than this, whatever the backoff.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(5);

/// How long a probe waits for its answer, once connected.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a channel to several addresses deals its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// To one after the other, those left out that are down.
    #[default]
    RoundRobin,
    /// To the first in the list that is not down.
    PickFirst,
}

/// Told of each new state, in order, on the event loop's thread.
type Watcher = Arc<dyn Fn(ChannelState) + Send + Sync>;

struct Watch {
    state: ChannelState,
    watchers: Vec<Watcher>,
}

pub(super) struct Targets {
    /// At least one. All on one event loop.
    subs: Vec<Arc<ChannelShared>>,
    /// By their places: a probe is planned or under way.
    probing: Vec<AtomicBool>,
    balance: Balance,
    /// Where the next call begins to look.
    turn: AtomicUsize,
    /// Where there is something to wait for: retries, or more than one server.
    delays: Option<Arc<Delays>>,
    watch: Mutex<Watch>,
    /// Without the event loops.
    pub(super) options: ChannelOptions,
}

impl Targets {
    /// Starts a driver for each address. `addrs` is not empty.
    pub(super) fn start(
        addrs: &[SocketAddr],
        balance: Balance,
        options: &ChannelOptions,
        handle: &Arc<LoopHandle>,
    ) -> Arc<Targets> {
        let waits = addrs.len() > 1 || options.retry.is_some();
        let delays = waits.then(|| Delays::start(handle, options.max_in_flight));
        let targets = Arc::new_cyclic(|targets: &Weak<Targets>| {
            let sub = |(index, &addr)| {
                let targets = Weak::clone(targets);
                let on_change = move || {
                    if let Some(targets) = targets.upgrade() {
                        targets.on_change(index);
                    }
                };
                let handle = Arc::clone(handle);
                Arc::new(ChannelShared::new(addr, options.clone(), handle, on_change))
            };
            Targets {
                subs: addrs.iter().enumerate().map(sub).collect(),
                probing: addrs.iter().map(|_| AtomicBool::new(false)).collect(),
                balance,
                turn: AtomicUsize::new(0),
                delays,
                watch: Mutex::new(Watch {
                    state: ChannelState::Idle,
                    watchers: Vec::new(),
                }),
                options: ChannelOptions {
                    loops: None,
                    ..options.clone()
                },
            }
        });
        for sub in &targets.subs {
            let shared = Arc::clone(sub);
            let build = move |turn: &mut Turn<'_>| {
                shared.set_source(turn.id);
                let mut driver = Driver::new(shared);
                let next = driver.look(turn);
                (next == Next::Keep).then(|| Box::new(driver) as Box<dyn Source>)
            };
            // Whoever starts this holds the loops, so they have not ended.
            let _ = handle.post(Post::Add(Box::new(build)));
        }
        targets
    }

    /// The last handle of the channel is gone.
    pub(super) fn close(&self) {
        if let Some(delays) = &self.delays {
            delays.close();
        }
        for sub in &self.subs {
            sub.close();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.subs.len()
    }

    pub(super) fn sub(&self, index: usize) -> &Arc<ChannelShared> {
        &self.subs[index]
    }

    /// The only server, for a call that needs nothing but it.
    pub(super) fn only(&self) -> Option<&Arc<ChannelShared>> {
        let options = &self.options;
        let plain = options.retry.is_none() && options.interceptors.is_empty();
        match &self.subs[..] {
            [sub] if plain => Some(sub),
            _ => None,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.subs.iter().map(|sub| sub.in_flight()).sum()
    }

    /// Which server gets a call that has been tried at those of `tried`; one that is down only if
    /// no other is left.
    pub(super) fn pick(&self, tried: &[usize]) -> Option<usize> {
        let len = self.subs.len();
        let first = match self.balance {
            Balance::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % len,
            Balance::PickFirst => 0,
        };
        let left = || {
            let around = (0..len).map(move |step| (first + step) % len);
            around.filter(|index| !tried.contains(index))
        };
        let mut up = left().filter(|&index| !self.subs[index].is_down());
        up.next().or_else(|| left().next())
    }

    /// For how long all calls will fail at once.
    pub(super) fn pause_left(&self) -> Duration {
        let pauses = self.subs.iter().map(|sub| sub.pause_left());
        pauses.min().unwrap_or_default()
    }

    /// Runs `job` on the loop after a pause. Dropped instead, if the loop or the channel has ended.
    pub(super) fn after(&self, pause: Duration, job: impl FnOnce() + Send + 'static) {
        if let Some(delays) = &self.delays {
            delays.after(pause, job);
        }
    }

    /// Whether another retry may wait.
    pub(super) fn has_room_to_wait(&self) -> bool {
        self.delays.as_ref().is_some_and(|delays| delays.has_room())
    }

    // ---- states

    pub(super) fn state(&self) -> ChannelState {
        let mut best = self.subs[0].state();
        for sub in &self.subs[1..] {
            let state = sub.state();
            if state.is_better_than(&best) {
                best = state;
            }
        }
        best
    }

    pub(super) fn watch(&self, watcher: Watcher) {
        self.watch.lock().watchers.push(watcher);
    }

    /// On the loop's thread.
    fn on_change(self: &Arc<Self>, index: usize) {
        if self.subs.len() > 1 && self.subs[index].is_down() {
            self.plan_probe(index);
        }
        let state = self.state();
        let watchers = {
            let mut watch = self.watch.lock();
            if watch.state == state {
                return;
            }
            watch.state = state.clone();
            watch.watchers.clone()
        };
        for watcher in watchers {
            let state = state.clone();
            if catch_unwind(AssertUnwindSafe(move || watcher(state))).is_err() {
                tracing::error!("a callback for the state of a channel panicked");
            }
        }
    }

    // ---- probes of servers that are down

    fn plan_probe(self: &Arc<Self>, index: usize) {
        if !self.probing[index].swap(true, Ordering::Relaxed) {
            self.probe_later(index);
        }
    }

    fn probe_later(self: &Arc<Self>, index: usize) {
        let pause = self.subs[index].pause_left().max(PROBE_PAUSE_MIN);
        let targets = Arc::downgrade(self);
        self.after(pause, move || {
            if let Some(targets) = targets.upgrade() {
                targets.probe(index);
            }
        });
    }

    /// Connects, if that is to be done, and waits for an answer.
    fn probe(self: &Arc<Self>, index: usize) {
        let targets = Arc::downgrade(self);
        let callback = move |_: Ended| {
            if let Some(targets) = targets.upgrade() {
                targets.probed(index);
            }
        };
        let completion = Completion::Callback(Box::new(callback));
        let timeout = self.options.connect_timeout.saturating_add(PROBE_TIMEOUT);
        if let Err((completion, error)) = self.subs[index].begin_ping(timeout, completion) {
            completion.end(error.into());
        }
    }

    /// Anything that it said has taken it back already.
    fn probed(self: &Arc<Self>, index: usize) {
        if self.subs[index].is_down() {
            self.probe_later(index);
        } else {
            self.probing[index].store(false, Ordering::Relaxed);
        }
    }
}
