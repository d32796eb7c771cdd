//! One loop: its thread, its sources, its turns.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Registry, Token, Waker};

use super::mailbox::{Build, LoopHandle, Post, SourceId};
use super::patience::Patience;
use super::share::{Company, Share};
use super::timers::Timers;

/// Events taken from the system at once.
const EVENTS_MAX: usize = 1024;

/// The loop's shared read buffer. Large enough for a thousand small requests in one read, small
/// enough to stay in the second-level cache.
const SCRATCH_BYTES: usize = 128 << 10;

/// Rounds over the loop's posts to itself in one turn; what is posted later waits for the next one.
const LOCAL_ROUNDS_MAX: usize = 4;

/// A loop that has moved so many bytes and has more to do lets other threads go first that want its
/// processor: they would wait for the rest of its time slice, which is longer than most calls take.
const BYTES_WORTH_A_YIELD: usize = 128 << 10;

/// The waker's token; no source can have it, since slots are fewer.
const WAKER: Token = Token(usize::MAX);

/// Whether a source stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Keep,
    /// The loop drops it.
    Close,
}

/// What a socket reported. All `false`: the source asked to go on, see [`Turn::again`].
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of flags, as the system reports them"
)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer sends no more.
    pub(crate) read_closed: bool,
    /// The socket is broken, or closed in both directions.
    pub(crate) broken: bool,
}

impl Ready {
    /// What an event tells.
    pub(crate) fn of(event: &Event) -> Ready {
        Ready {
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            broken: event.is_error() || event.is_write_closed(),
        }
    }

    /// Whether it reported anything.
    pub(crate) fn is_any(self) -> bool {
        self.readable || self.writable || self.read_closed || self.broken
    }
}

/// Something that a loop drives. All methods run on the loop's thread and must not block.
pub(crate) trait Source {
    /// Its socket reported something (edge-triggered), or it asked to go on.
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next;

    /// Somebody posted [`Post::Notify`].
    fn on_notify(&mut self, turn: &mut Turn<'_>) -> Next;

    /// The alarm that it set is due.
    fn on_timer(&mut self, turn: &mut Turn<'_>) -> Next;

    /// [`flush_later`] was called for it.
    fn on_flush(&mut self, turn: &mut Turn<'_>) -> Next;
}

/// What a source may use while it is called.
pub(crate) struct Turn<'a> {
    /// The source itself.
    pub(crate) id: SourceId,
    pub(crate) registry: &'a Registry,
    /// A buffer for one read, shared by all sources.
    pub(crate) scratch: &'a mut [u8],
    /// What the source may move in this turn.
    pub(crate) share: Share,
    alarm: &'a mut Option<Instant>,
    timers: &'a mut Timers,
    again_asked: &'a mut bool,
    again: &'a mut Vec<SourceId>,
    bytes: &'a mut usize,
}

impl Turn<'_> {
    /// The token under which the source registers its socket.
    pub(crate) fn token(&self) -> Token {
        token_of(self.id)
    }

    /// Sets the source's alarm, unless an earlier one is set.
    pub(crate) fn alarm_by(&mut self, at: Instant) {
        if self.alarm.is_none_or(|alarm| at < alarm) {
            *self.alarm = Some(at);
            self.timers.push(at, self.id);
        }
    }

    /// Notes that the source has moved bytes to or from its socket.
    pub(crate) fn moved(&mut self, bytes: usize) {
        *self.bytes += bytes;
    }

    /// Asks for another `on_ready`, after the other sources had theirs. Asking twice is asking
    /// once.
    pub(crate) fn again(&mut self) {
        if !std::mem::replace(self.again_asked, true) {
            self.again.push(self.id);
        }
    }
}

thread_local! {
    /// Sources of this thread's loop to be flushed.
    static FLUSHES: RefCell<Vec<SourceId>> = const { RefCell::new(Vec::new()) };
    /// On a loop's thread: when it last looked at the clock, see [`now`].
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time, for deadlines and statistics. On a loop's thread it is a new one before sockets, timers
/// and every flush: the clock is not asked for each of thousands of calls.
pub(crate) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// Asks for an `on_flush` of a source of this thread's loop: as soon as it has been called, if it is
/// the one that is being called, or else at the end of the turn. The caller sees to it that a source
/// asks once for each flush.
pub(crate) fn flush_later(id: SourceId) {
    FLUSHES.with_borrow_mut(|flushes| flushes.push(id));
}

/// Whether the source asked for the latest flush; it is not asked for any more then.
fn take_flush(id: SourceId) -> bool {
    FLUSHES.with_borrow_mut(|flushes| flushes.pop_if(|asked| *asked == id).is_some())
}

fn token_of(id: SourceId) -> Token {
    Token(id.slot as usize | (id.generation as usize) << 32)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a token")]
fn id_of(token: Token) -> SourceId {
    SourceId {
        slot: token.0 as u32,
        generation: (token.0 >> 32) as u32,
    }
}

/// Starts the thread of the loop at position `index` of a group.
pub(super) fn start(group: u64, index: usize, name: &str) -> io::Result<Arc<LoopHandle>> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let handle = Arc::new(LoopHandle::new(group, index, waker));
    let loops_own = Arc::clone(&handle);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || EventLoop::new(poll, loops_own).run())?;
    Ok(handle)
}

fn flush(source: &mut dyn Source, turn: &mut Turn<'_>) -> Next {
    NOW.set(Some(Instant::now()));
    source.on_flush(turn)
}

struct EventLoop {
    poll: Poll,
    handle: Arc<LoopHandle>,
    slots: Vec<Slot>,
    /// Slots without a source.
    vacant: Vec<u32>,
    timers: Timers,
    /// Alarms that are due, while they ring; kept for its memory.
    due: Vec<(Instant, SourceId)>,
    scratch: Box<[u8]>,
    again: Vec<SourceId>,
    patience: Patience,
    company: Company,
    share: Share,
    /// Moved by its sources since it waited last, or let others have the processor.
    bytes: usize,
}

struct Slot {
    generation: u32,
    /// The only alarm that counts; entries of the timers that say otherwise are outdated.
    alarm: Option<Instant>,
    /// Its source is in the loop's `again`.
    again_asked: bool,
    /// `None` while it is vacant, and while its source is being called.
    source: Option<Box<dyn Source>>,
}

impl EventLoop {
    fn new(poll: Poll, handle: Arc<LoopHandle>) -> EventLoop {
        EventLoop {
            poll,
            handle,
            slots: Vec::new(),
            vacant: Vec::new(),
            timers: Timers::default(),
            due: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            again: Vec::new(),
            patience: Patience::default(),
            company: Company::default(),
            share: Share::ALONE,
            bytes: 0,
        }
    }

    fn run(&mut self) {
        let handle = Arc::clone(&self.handle);
        let entered = handle.enter();
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut posts = Vec::new();
        while self.turn(&mut events, &mut posts) {}
        // The sources go while the thread still counts as the loop's: they may look at its state.
        self.slots.clear();
        drop(entered);
    }

    /// One round; `false` if it was the last.
    fn turn(&mut self, events: &mut Events, posts: &mut Vec<Post>) -> bool {
        self.wait(events);
        self.divide(events);
        for event in &*events {
            if event.token() == WAKER {
                continue;
            }
            let ready = Ready::of(event);
            self.call(id_of(event.token()), |source, turn| {
                source.on_ready(ready, turn)
            });
        }
        for id in std::mem::take(&mut self.again) {
            self.call(id, |source, turn| {
                *turn.again_asked = false;
                source.on_ready(Ready::default(), turn)
            });
        }
        self.ring();

        self.handle.collect(posts);
        let mut go_on = self.deliver(posts);
        for _ in 0..LOCAL_ROUNDS_MAX {
            LoopHandle::collect_local(posts);
            if posts.is_empty() {
                break;
            }
            go_on &= self.deliver(posts);
        }

        let mut flushes = FLUSHES.take();
        for id in flushes.drain(..) {
            self.call(id, flush);
        }
        // Gives the buffer back, unless a flush asked for flushes: those come with the next turn.
        FLUSHES.with_borrow_mut(|asked| {
            if asked.is_empty() {
                *asked = flushes;
            }
        });
        go_on
    }

    /// Settles what each source may move in this turn.
    fn divide(&mut self, events: &Events) {
        let now = now();
        let tokens = events.iter().map(Event::token);
        let heard = tokens.filter(|&token| token != WAKER).map(id_of);
        for id in heard.chain(self.again.iter().copied()) {
            self.company.called(id, now);
        }
        self.share = self.company.share(now);
    }

    fn wait(&mut self, events: &mut Events) {
        let mut idle = self.again.is_empty()
            && FLUSHES.with_borrow(Vec::is_empty)
            && !LoopHandle::has_local_posts();
        if idle {
            self.bytes = 0;
        } else if self.bytes >= BYTES_WORTH_A_YIELD {
            self.bytes = 0;
            thread::yield_now();
        }
        if idle && self.watch(events) {
            NOW.set(Some(Instant::now()));
            return;
        }
        idle = idle && self.handle.fall_asleep();
        let begun = Instant::now();
        let timeout = if idle {
            self.timers.until_next(begun)
        } else {
            Some(Duration::ZERO)
        };
        let polled = self.poll.poll(events, timeout);
        let now = Instant::now();
        NOW.set(Some(now));
        if idle {
            self.patience.slept(now - begun);
        }
        match polled {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Not a state that poll documents for a valid descriptor; the pause keeps it from
            // spinning.
            Err(error) => {
                tracing::error!(%error, "poll failed");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Waits for events and posts without sleeping, if that is worth it; `true`: there are some.
    fn watch(&mut self, events: &mut Events) -> bool {
        let (poll, handle, timers) = (&mut self.poll, &self.handle, &self.timers);
        self.patience.watch(|| {
            // A failure shows again when it is polled in earnest.
            let polled = poll.poll(events, Some(Duration::ZERO));
            (polled.is_ok() && !events.is_empty())
                || handle.has_posts()
                || timers.until_next(Instant::now()) == Some(Duration::ZERO)
        })
    }

    /// Rings the alarms that are due. One that is set meanwhile waits for the next turn, even if it
    /// is due already: a source that sets it to the past again and again must not stop the loop.
    fn ring(&mut self) {
        let now = Instant::now();
        NOW.set(Some(now));
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.timers.pop_due(now)));
        for (at, id) in due.drain(..) {
            let Some(slot) = self.slots.get_mut(id.slot as usize) else {
                continue;
            };
            if slot.generation == id.generation && slot.alarm == Some(at) {
                slot.alarm = None;
                self.call(id, |source, turn| source.on_timer(turn));
            }
        }
        self.due = due;
        let slots = &self.slots;
        self.timers.clean(slots.len() - self.vacant.len(), |id| {
            let slot = slots.get(id.slot as usize)?;
            if slot.generation == id.generation {
                slot.alarm
            } else {
                None
            }
        });
    }

    fn deliver(&mut self, posts: &mut Vec<Post>) -> bool {
        let mut go_on = true;
        for post in posts.drain(..) {
            match post {
                Post::Add(build) => self.add(build),
                Post::Notify(id) => self.call(id, |source, turn| source.on_notify(turn)),
                Post::Stop => go_on = false,
            }
        }
        go_on
    }

    fn add(&mut self, build: Build) {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                alarm: None,
                again_asked: false,
                source: None,
            });
            u32::try_from(self.slots.len() - 1).expect("descriptors are fewer than 2^32")
        });
        let id = SourceId {
            slot,
            generation: self.slots[slot as usize].generation,
        };
        let source = self.guarded(id, build).flatten();
        match source {
            Some(source) => self.slots[slot as usize].source = Some(source),
            None => self.vacate(id),
        }
    }

    /// Calls a source, if it is still there, and drops it if it is done or has panicked. What it has
    /// to send leaves at once, while its socket is in the processor's cache and its peer has nothing
    /// else to do.
    fn call(&mut self, id: SourceId, f: impl FnOnce(&mut dyn Source, &mut Turn<'_>) -> Next) {
        let Some(slot) = self.slots.get_mut(id.slot as usize) else {
            return;
        };
        if slot.generation != id.generation {
            return;
        }
        let Some(mut source) = slot.source.take() else {
            return;
        };
        let called = self.guarded(id, |turn| match f(&mut *source, turn) {
            Next::Keep if take_flush(id) => flush(&mut *source, turn),
            next => next,
        });
        match called {
            Some(Next::Keep) => self.slots[id.slot as usize].source = Some(source),
            Some(Next::Close) | None => {
                self.vacate(id);
                // What a source does when it goes is its own affair as well.
                if catch_unwind(AssertUnwindSafe(move || drop(source))).is_err() {
                    tracing::error!("a connection panicked while it was closed");
                }
            }
        }
    }

    /// Runs `f` with a turn for `id`. A panic is our bug; it costs this source and no other.
    fn guarded<T>(&mut self, id: SourceId, f: impl FnOnce(&mut Turn<'_>) -> T) -> Option<T> {
        let slot = &mut self.slots[id.slot as usize];
        let mut turn = Turn {
            id,
            registry: self.poll.registry(),
            scratch: &mut self.scratch,
            share: self.share,
            alarm: &mut slot.alarm,
            timers: &mut self.timers,
            again_asked: &mut slot.again_asked,
            again: &mut self.again,
            bytes: &mut self.bytes,
        };
        let result = catch_unwind(AssertUnwindSafe(|| f(&mut turn)));
        if result.is_err() {
            tracing::error!("a connection's code panicked; the connection is closed");
        }
        result.ok()
    }

    fn vacate(&mut self, id: SourceId) {
        let slot = &mut self.slots[id.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.alarm = None;
        slot.again_asked = false;
        self.vacant.push(id.slot);
    }
}
