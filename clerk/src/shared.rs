//! What all handles and calls of one clerk share.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::membership::DescribeArgs;
use rpc::RpcController;
use tracing::debug;

use crate::call::{Call, Task};
use crate::error::{ClerkError, LastFailure};
use crate::logic::members::Members;
use crate::logic::nodes::Nodes;
use crate::logic::pursuit::{Pace, Pursuit};
use crate::logic::session::{Place, Sessions, WaitedFor};
use crate::options::ClerkOptions;
use crate::permits::Permits;
use crate::stubs::Stubs;
use crate::timer::Timer;

/// How many replies a node keeps for a session; no window can be larger.
const WINDOW_MAX: usize = 1024;

/// Of its locks, only `nodes` then `random` are ever held together.
pub(crate) struct Shared {
    pub(crate) nodes: Mutex<Nodes>,
    members: Mutex<Members>,
    pub(crate) random: Mutex<fastrand::Rng>,
    pub(crate) sessions: Mutex<Sessions<Call>>,
    departures: Mutex<Departures>,
    /// What last went wrong in opening a session, for those who wait for it in vain.
    pub(crate) opening_trouble: Mutex<Option<LastFailure>>,
    pub(crate) stubs: Mutex<Stubs>,
    pub(crate) timer: Timer,
    pub(crate) permits: Arc<Permits>,
    pub(crate) max_outstanding: usize,
    pub(crate) stats: Counters,
    window: usize,
    pace: Pace,
}

/// Writes that were let in and have still to set out. At most as many as there is room in the window.
#[derive(Default)]
struct Departures {
    waiting: VecDeque<(Call, Place)>,
    /// A thread sees to them.
    under_way: bool,
}

/// Has the timer go on when a caller's callback panics: the writes behind it are not that caller's.
struct RestOfDepartures<'a>(&'a Arc<Shared>);

impl Drop for RestOfDepartures<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.departures.lock().under_way = false;
            let shared = Arc::clone(self.0);
            let go_on = move || shared.set_out(Vec::new());
            self.0.timer.at(Instant::now(), go_on);
        }
    }
}

/// See [`ClerkStats`](crate::ClerkStats).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) retries: AtomicU64,
    pub(crate) sessions_opened: AtomicU64,
}

impl Shared {
    /// # Errors
    /// The system refuses a thread.
    ///
    /// # Panics
    /// If `addresses` is empty.
    pub(crate) fn new(addresses: &[SocketAddr], options: ClerkOptions) -> io::Result<Arc<Self>> {
        let mut random = options
            .seed
            .map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let window = options.window.clamp(1, WINDOW_MAX);
        let max_outstanding = options.max_outstanding.max(1);
        Ok(Arc::new(Self {
            nodes: Mutex::new(Nodes::new(addresses, random.usize(..))),
            members: Mutex::new(Members::new(options.refresh_members)),
            random: Mutex::new(random),
            sessions: Mutex::new(Sessions::new(window)),
            departures: Mutex::default(),
            opening_trouble: Mutex::new(None),
            timer: Timer::start()?,
            permits: Permits::new(max_outstanding),
            max_outstanding,
            stats: Counters::default(),
            window,
            pace: Pace {
                attempt_timeout: options.attempt_timeout,
                backoff: options.backoff,
            },
            stubs: Mutex::new(Stubs::new(addresses, options)),
        }))
    }

    /// The way of a call that starts now.
    pub(crate) fn pursuit(&self, timeout: Duration) -> Pursuit {
        Pursuit::new(self.pace, timeout, Instant::now())
    }

    /// `addr` has answered a call. Asks it who the members are, if it is time to.
    pub(crate) fn heard(self: &Arc<Self>, addr: SocketAddr, leads: bool) {
        if !self.members.lock().is_due(addr, leads, Instant::now()) {
            return;
        }
        let stub = self.stubs.lock().to(addr).cluster;
        let controller = RpcController::with_timeout(self.pace.attempt_timeout);
        let shared = Arc::downgrade(self);
        stub.describe_async(controller, &DescribeArgs {}, move |reply| {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            match reply {
                Ok(reply) => {
                    let members = shared.members.lock().answered(addr, &reply);
                    if let Some(members) = members {
                        debug!(node = %addr, ?members, "the cluster's members");
                        shared.nodes.lock().learn(&members);
                        shared.stubs.lock().learn(&members);
                    }
                }
                Err(error) => {
                    debug!(node = %addr, %error, "does not say who the members are");
                }
            }
            shared.members.lock().ended();
        });
    }

    /// Opens a session for the writes that wait for one. They are told by
    /// [`session_opened`](Self::session_opened) or [`opening_failed`](Self::opening_failed).
    pub(crate) fn open_session(self: &Arc<Self>) {
        *self.opening_trouble.lock() = None;
        let pursuit = self.pursuit(Duration::ZERO); // takes its deadline from those writes
        Call::new(Arc::clone(self), pursuit, None, Task::OpenSession).start();
    }

    pub(crate) fn session_opened(self: &Arc<Self>, session: u64) {
        self.stats.sessions_opened.fetch_add(1, Ordering::Relaxed);
        let admitted = self.sessions.lock().opened(session);
        self.set_out(admitted);
    }

    /// No session could be opened by `deadline` (`None`: and none can be later).
    ///
    /// # Errors
    /// Until when to go on instead, because a more patient write has come.
    pub(crate) fn opening_failed(
        &self,
        error: &ClerkError,
        deadline: Option<Instant>,
    ) -> Result<(), Instant> {
        let failed = {
            let mut sessions = self.sessions.lock();
            match deadline {
                Some(deadline) => sessions.give_up_opening(deadline)?,
                None => sessions.opening_failed(),
            }
        };
        for call in failed {
            call.fail_unsent(|pursuit| match error.clone() {
                ClerkError::NoLeader { nodes, last, .. } => ClerkError::NoLeader {
                    nodes,
                    within: pursuit.timeout(),
                    last,
                },
                other => other,
            });
        }
        Ok(())
    }

    /// The write at `place` has ended; others may take its room.
    pub(crate) fn leave_session(self: &Arc<Self>, place: Place) {
        let admitted = self.sessions.lock().finish(place);
        self.set_out(admitted);
    }

    /// Starts writes, one after the other. One that ends at once, for want of time, lets in the next
    /// and comes back here: that one must not start on top of its stack frames.
    fn set_out(self: &Arc<Self>, admitted: Vec<(Call, Place)>) {
        {
            let mut departures = self.departures.lock();
            departures.waiting.extend(admitted);
            if departures.under_way {
                return; // to whoever sees to them
            }
            departures.under_way = true;
        }
        let _rest = RestOfDepartures(self);
        while let Some((call, place)) = self.next_departure() {
            call.start_at(place);
        }
    }

    fn next_departure(&self) -> Option<(Call, Place)> {
        let mut departures = self.departures.lock();
        let next = departures.waiting.pop_front();
        departures.under_way = next.is_some();
        next
    }

    /// Has the writes that still wait for a place at `at` end by their deadlines. The timer's
    /// closure does not keep the clerk alive: a write that waits does.
    pub(crate) fn end_overdue_at(self: &Arc<Self>, at: Instant) {
        let shared = Arc::downgrade(self);
        self.timer.at(at, move || {
            if let Some(shared) = shared.upgrade() {
                shared.end_overdue();
            }
        });
    }

    fn end_overdue(self: &Arc<Self>) {
        let (overdue, waited_for, next) = self.sessions.lock().overdue(Instant::now());
        if let Some(at) = next {
            self.end_overdue_at(at);
        }
        let nodes = self.nodes.lock().count();
        let trouble = self.opening_trouble.lock().clone();
        for call in overdue {
            call.fail_unsent(|pursuit| match waited_for {
                WaitedFor::Room => ClerkError::Overloaded {
                    what: format!("this clerk has {} unfinished writes", self.window),
                },
                WaitedFor::Session => ClerkError::NoLeader {
                    nodes,
                    within: pursuit.timeout(),
                    last: trouble.clone().unwrap_or_else(|| LastFailure {
                        by: None,
                        text: "no reply yet to the request for a session".to_owned(),
                    }),
                },
            });
        }
    }
}
