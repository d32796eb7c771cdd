//! [`Loans`]: a caller that is alone does the event loop's work itself.
//!
//! A blocking call costs two hand-overs between threads, to the loop and back, and each of them
//! costs more than the call. So a channel that carries one blocking call after the other, and
//! nothing else, has its connection lent to the caller, who writes, waits for the socket and reads
//! in its own thread.
//!
//! ```text
//!           lone calls, one after the other            begin
//!   Home ──────────────────────────────────► Idle ◄────────────► Driven
//!    ▲  (the loop watches the socket)         │      reply         │ somebody else has something for
//!    │                                        │                    │ the loop, or the connection must
//!    │◄── unused for a while, or wanted ──────┘                    ▼ not be used any more
//!    └────────────────────────────────────────────────────────  Returned
//! ```
//!
//! All of it is the connection's own code; only the thread is another. Whoever drives has the
//! connection to itself, so there is no lock around it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token, Waker};
use parking_lot::Mutex;

use super::connection::{Broken, Connection, Reading};
use super::pending::Ended;
use super::shared::ChannelShared;
use crate::handover::Waiter;
use crate::reactor::{Patience, Ready, Share, WAIT_MAX, on_any_loop};

/// How often the loop looks whether a connection that it has lent is still used. For as long an
/// idle connection may go unwatched: its next caller looks at it before it sends.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(20);

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// A caller has one call under way: few kinds of events.
const EVENTS_MAX: usize = 4;

const SCRATCH_BYTES: usize = 64 << 10;

/// Who has the connection of a channel to one server.
#[derive(Default)]
pub(super) struct Loans {
    state: Mutex<Loan>,
    /// The state is `Idle`; looked at without the lock.
    idle: AtomicBool,
}

enum Loan {
    /// The driver, if there is a connection.
    Home(Option<Box<Seat>>),
    /// Whoever comes first.
    Idle {
        held: Held,
        /// Since the loop looked last.
        used: bool,
    },
    /// A caller.
    Driven {
        waker: Arc<Waker>,
        /// The loop wants it back.
        recalled: bool,
    },
    /// On its way back to the driver; it may have broken.
    Returned(Held, Option<Broken>),
    /// Nobody, ever again: the driver is gone.
    Abandoned,
}

impl Default for Loan {
    fn default() -> Loan {
        Loan::Home(None)
    }
}

struct Held {
    connection: Box<Connection>,
    seat: Box<Seat>,
}

/// What a caller waits with.
struct Seat {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    scratch: Box<[u8]>,
    patience: Patience,
}

impl Seat {
    fn new() -> io::Result<Seat> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Seat {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            patience: Patience::default(),
        })
    }

    /// Waits for the socket or the waker, and tells what the socket reported.
    fn wait(&mut self, at_most: Duration) -> io::Result<Ready> {
        let (poll, events) = (&mut self.poll, &mut self.events);
        let mut look = |at_most| match poll.poll(events, Some(at_most)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(!events.is_empty()),
        };
        if at_most.is_zero() {
            look(at_most)?;
        } else if !self.patience.watch(|| look(Duration::ZERO).unwrap_or(true)) {
            let begun = Instant::now();
            look(at_most)?;
            self.patience.slept(begun.elapsed());
        }
        let socket = self.events.iter().find(|event| event.token() == SOCKET);
        Ok(socket.map_or_else(Ready::default, Ready::of))
    }
}

/// What the loop gets when it wants a connection back.
pub(super) enum Fetched {
    Here(Box<Connection>, Option<Broken>),
    /// A caller has it and was told; the driver is notified once it is back.
    Recalled,
}

impl Loans {
    // ---- for the driver

    /// Lends a connection that has nothing to do. It must be registered with `registry`.
    ///
    /// # Errors
    /// Gives it back if the system denies what it takes; it may be broken then.
    pub(super) fn lend(
        &self,
        mut connection: Box<Connection>,
        registry: &Registry,
    ) -> Result<(), (Box<Connection>, Option<Broken>)> {
        let mut state = self.state.lock();
        let seat = match &mut *state {
            Loan::Home(seat) => seat.take(),
            _ => None,
        };
        let seat = match seat.map_or_else(|| Seat::new().map(Box::new), Ok) {
            Ok(seat) => seat,
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be lent to its caller");
                return Err((connection, None));
            }
        };
        if let Err(error) = connection.watch_with(registry, seat.poll.registry(), SOCKET) {
            return Err((connection, Some(error.into())));
        }
        let held = Held { connection, seat };
        *state = Loan::Idle { held, used: true };
        self.idle.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gets a lent connection back and registers it, or has it brought.
    pub(super) fn fetch(&self, registry: &Registry, token: Token) -> Fetched {
        let mut state = self.state.lock();
        let (held, broken) = match std::mem::take(&mut *state) {
            Loan::Idle { held, .. } => (held, None),
            Loan::Returned(held, broken) => (held, broken),
            Loan::Driven { waker, .. } => {
                if let Err(error) = waker.wake() {
                    tracing::error!(%error, "a caller cannot be woken");
                }
                let recalled = true;
                *state = Loan::Driven { waker, recalled };
                return Fetched::Recalled;
            }
            Loan::Home(_) | Loan::Abandoned => unreachable!("the driver fetches what it has lent"),
        };
        self.idle.store(false, Ordering::Relaxed);
        let Held {
            mut connection,
            seat,
        } = held;
        let watched = connection.watch_with(seat.poll.registry(), registry, token);
        *state = Loan::Home(Some(seat));
        let broken = broken.or(watched.err().map(Broken::Io));
        Fetched::Here(connection, broken)
    }

    /// Whether nobody has used the connection since this was asked last.
    pub(super) fn is_unused(&self) -> bool {
        match &mut *self.state.lock() {
            Loan::Idle { used, .. } => !std::mem::take(used),
            _ => false,
        }
    }

    /// The driver is gone.
    pub(super) fn abandon(&self) {
        self.idle.store(false, Ordering::Relaxed);
        let before = std::mem::replace(&mut *self.state.lock(), Loan::Abandoned);
        drop(before);
    }

    // ---- for callers

    /// Takes a connection that is lent to whoever comes first.
    pub(super) fn borrow<'a>(&'a self, shared: &'a ChannelShared) -> Option<Borrowed<'a>> {
        // A loop's thread has a clock of its own, and should not wait anyway.
        if !self.idle.load(Ordering::Relaxed) || on_any_loop() {
            return None;
        }
        let held = {
            let mut state = self.state.try_lock()?;
            if !matches!(*state, Loan::Idle { .. }) {
                return None;
            }
            let Loan::Idle { held, .. } = std::mem::take(&mut *state) else {
                unreachable!("it was just looked at");
            };
            let (waker, recalled) = (Arc::clone(&held.seat.waker), false);
            *state = Loan::Driven { waker, recalled };
            self.idle.store(false, Ordering::Relaxed);
            held
        };
        let mut borrowed = Borrowed {
            loans: self,
            shared,
            held: Some(held),
            broken: None,
        };
        // What has happened to it while nobody watched. Where that is more than a share, the loop
        // sees to it: what comes after it may be the connection's end.
        borrowed.step(Duration::ZERO);
        let all_seen = borrowed.is_usable() && !borrowed.connection().has_more_to_read();
        all_seen.then_some(borrowed)
    }

    fn is_recalled(&self) -> bool {
        match &*self.state.lock() {
            Loan::Driven { recalled, .. } => *recalled,
            _ => true,
        }
    }
}

/// A connection in the hands of a caller. Dropped, it goes back.
pub(super) struct Borrowed<'a> {
    loans: &'a Loans,
    shared: &'a ChannelShared,
    /// Taken when it goes back.
    held: Option<Held>,
    broken: Option<Broken>,
}

impl Borrowed<'_> {
    fn held(&mut self) -> &mut Held {
        self.held.as_mut().expect("it has not gone back")
    }

    /// The connection, for the frame of the caller's call.
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.held().connection
    }

    fn is_usable(&mut self) -> bool {
        self.broken.is_none() && !self.connection().was_left()
    }

    /// Drives the connection until the caller's call has ended. Where others want the connection
    /// too, or it can be used no longer, it goes back before that, and the loop ends the call.
    pub(super) fn drive(mut self, waiter: &Waiter<Ended>) {
        while self.is_usable() && !waiter.has_come() {
            let now = Instant::now();
            let patience = self
                .connection()
                .next_alarm()
                .saturating_duration_since(now);
            self.step(patience.min(WAIT_MAX));
            if self.loans.is_recalled() {
                return;
            }
        }
    }

    /// Sends what there is, waits for something to happen, and lets the connection see to it. It
    /// reads a share at most and goes on with the next step: whatever a server sends, alarms are
    /// looked at in between, and whether others want the connection.
    fn step(&mut self, patience: Duration) {
        if let Err(broken) = self.held().step(patience) {
            self.broken = Some(broken);
        }
    }
}

impl Held {
    fn step(&mut self, patience: Duration) -> Result<(), Broken> {
        let Held { connection, seat } = self;
        while connection.take_flush_wanted() {
            connection.on_flush(&mut Reading::new(&mut seat.scratch, Share::ALONE))?;
        }
        let more = connection.has_more_to_read();
        let ready = seat.wait(if more { Duration::ZERO } else { patience })?;
        if more || ready.is_any() {
            connection.on_ready(ready, &mut Reading::new(&mut seat.scratch, Share::ALONE))?;
        }
        let now = Instant::now();
        if connection.next_alarm() <= now {
            connection.on_timer(now)?;
        }
        Ok(())
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        let mut broken = self.broken.take();
        if thread::panicking() {
            broken = Some(Broken::Io(io::Error::other("its caller panicked")));
        }
        let mut state = self.loans.state.lock();
        match &*state {
            Loan::Driven { recalled, .. } => {
                if !recalled && broken.is_none() && held.connection.is_calm() {
                    *state = Loan::Idle { held, used: true };
                    self.loans.idle.store(true, Ordering::Relaxed);
                    return;
                }
                *state = Loan::Returned(held, broken);
            }
            // Its calls end with it.
            _ => return,
        }
        drop(state);
        self.shared.notify_driver();
    }
}
