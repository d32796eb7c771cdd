//! [`Loans`]: a caller that is alone does the event loop's work itself.
//!
//! A blocking call costs two hand-overs between threads, to the loop and back, and each of them
//! costs more than the call. So a channel that carries one blocking call after the other, and
//! nothing else, has its connection lent to the caller, who writes, waits for the socket and reads
//! in its own thread.
//!
//! ```text
//!           lone calls, one after the other            begin
//!   Home ──────────────────────────────────► Idle ◄─────────────► Lent
//!    ▲  (the loop watches the socket)         │      reply         │ somebody else has something for
//!    │                                        │                    │ the loop, or the connection must
//!    │◄── unused for a while, or wanted ──────┘                    ▼ not be used any more
//!    └────────────────────────────────────────────────────────  Returned
//! ```
//!
//! All of it is the connection's own code; only the thread is another. Whoever drives has the
//! connection to itself, so there is no lock around it. Who has it is [`Lending`]'s affair.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token, Waker};
use parking_lot::Mutex;

use super::connection::{Broken, Connection, Reading};
use super::pending::Ended;
use super::shared::ChannelShared;
use crate::handover::{Lending, Waiter};
use crate::reactor::{Patience, Ready, Share, WAIT_MAX, on_any_loop};

/// How often the loop looks whether a connection that it has lent is still used. For as long an
/// idle connection may go unwatched: its next caller looks at it before it sends.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(20);

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// A caller has one call under way: few kinds of events.
const EVENTS_MAX: usize = 4;

const SCRATCH_BYTES: usize = 64 << 10;

/// Lends the connection of a channel to one server.
pub(super) struct Loans {
    lending: Lending<Held, Arc<Waker>>,
    /// While nothing is lent; kept for the next loan. For the driver.
    seat: Mutex<Option<Box<Seat>>>,
}

/// What is lent.
struct Held {
    connection: Box<Connection>,
    seat: Box<Seat>,
    /// The connection cannot be used any more.
    broken: Option<Broken>,
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
    pub(super) fn new() -> Loans {
        Loans {
            lending: Lending::new(),
            seat: Mutex::new(None),
        }
    }

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
        let seat = self.seat.lock().take();
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
        let broken = None;
        self.lending.lend(Held {
            connection,
            seat,
            broken,
        });
        Ok(())
    }

    /// Gets a lent connection back and registers it, or has it brought.
    pub(super) fn fetch(&self, registry: &Registry, token: Token) -> Fetched {
        match self.lending.fetch() {
            Ok(held) => {
                let Held {
                    mut connection,
                    seat,
                    broken,
                } = held;
                let watched = connection.watch_with(seat.poll.registry(), registry, token);
                *self.seat.lock() = Some(seat);
                let broken = broken.or(watched.err().map(Broken::Io));
                Fetched::Here(connection, broken)
            }
            Err(waker) => {
                wake(&waker);
                Fetched::Recalled
            }
        }
    }

    /// Whether nobody has used the connection since this was asked last.
    pub(super) fn is_unused(&self) -> bool {
        self.lending.is_unused()
    }

    /// The driver is gone.
    pub(super) fn abandon(&self) {
        if let Some(waker) = self.lending.abandon() {
            wake(&waker);
        }
        drop(self.seat.lock().take());
    }

    // ---- for callers

    /// Takes a connection that is lent to whoever comes first.
    pub(super) fn borrow<'a>(&'a self, shared: &'a ChannelShared) -> Option<Borrowed<'a>> {
        // A loop's thread has a clock of its own, and should not wait anyway.
        if !self.lending.may_be_idle() || on_any_loop() {
            return None;
        }
        let held = self.lending.borrow(|held| Arc::clone(&held.seat.waker))?;
        let mut borrowed = Borrowed {
            loans: self,
            shared,
            held: Some(held),
        };
        // What has happened to it while nobody watched. Where that is more than a share, the loop
        // sees to it: what comes after it may be the connection's end. This may take a wake off the
        // poll, which is why `drive` asks whether the connection is wanted back before it sleeps.
        borrowed.step(Duration::ZERO);
        let all_seen = borrowed.is_usable() && !borrowed.connection().has_more_to_read();
        all_seen.then_some(borrowed)
    }
}

fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        tracing::error!(%error, "a caller cannot be woken");
    }
}

/// A connection in the hands of a caller. Dropped, it goes back.
pub(super) struct Borrowed<'a> {
    loans: &'a Loans,
    shared: &'a ChannelShared,
    /// Taken when it goes back.
    held: Option<Held>,
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
        let held = self.held();
        held.broken.is_none() && !held.connection.was_left()
    }

    /// Drives the connection until the caller's call has ended. Where others want the connection
    /// too, or it can be used no longer, it goes back before that, and the loop ends the call.
    pub(super) fn drive(mut self, waiter: &Waiter<Ended>) {
        while self.is_usable() && !waiter.has_come() && !self.loans.lending.is_recalled() {
            let now = Instant::now();
            let patience = self
                .connection()
                .next_alarm()
                .saturating_duration_since(now);
            self.step(patience.min(WAIT_MAX));
        }
    }

    /// Sends what there is, waits for something to happen, and lets the connection see to it. It
    /// reads a share at most and goes on with the next step: whatever a server sends, alarms are
    /// looked at in between, and whether others want the connection.
    fn step(&mut self, patience: Duration) {
        let held = self.held();
        if let Err(broken) = held.step(patience) {
            held.broken = Some(broken);
        }
    }
}

impl Held {
    fn step(&mut self, patience: Duration) -> Result<(), Broken> {
        let Held {
            connection, seat, ..
        } = self;
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
        let Some(mut held) = self.held.take() else {
            return;
        };
        if thread::panicking() {
            held.broken = Some(Broken::Io(io::Error::other("its caller panicked")));
        }
        let lend_on = held.broken.is_none() && held.connection.is_calm();
        // If the driver is gone, the connection's calls end with it.
        if self.loans.lending.give_back(held, lend_on) {
            self.shared.notify_driver();
        }
    }
}
