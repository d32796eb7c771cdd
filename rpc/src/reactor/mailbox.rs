//! [`LoopHandle`]: how any thread reaches a loop.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use mio::Waker;

use super::event_loop::{Source, Turn};
use crate::handover::Posts;

/// Names a source on its loop. A slot's next tenant has another generation, so a message or event
/// for the one before finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Makes a source on its loop's thread; `None` if it has changed its mind.
pub(crate) type Build = Box<dyn FnOnce(&mut Turn<'_>) -> Option<Box<dyn Source>> + Send>;

/// A message to a loop.
pub(crate) enum Post {
    /// A new source.
    Add(Build),
    /// Something waits for a source in what it shares with others: its `on_notify` is called.
    Notify(SourceId),
    /// The loop ends and drops its sources.
    Stop,
}

thread_local! {
    /// The loop that this thread runs, and its group; 0: none.
    static LOOP: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// Posts from the loop's thread to itself. Bounded by what its sources post in one turn.
    static LOCAL_POSTS: RefCell<Vec<Post>> = const { RefCell::new(Vec::new()) };
}

/// Whether this thread is one of that group's loops.
pub(crate) fn on_group(group: u64) -> bool {
    LOOP.get().1 == group
}

/// Whether this thread is an event loop's.
pub(crate) fn on_any_loop() -> bool {
    LOOP.get().0 != 0
}

/// What the world knows of a loop.
pub(crate) struct LoopHandle {
    id: u64,
    group: u64,
    /// Its position in the group.
    index: usize,
    waker: Waker,
    /// Bounded by its posters: a source is notified at most once until it has looked, and a source
    /// is added for an accepted connection or a new channel, which are limited elsewhere.
    mailbox: Posts<Post>,
}

impl std::fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopHandle")
            .field("id", &self.id)
            .field("group", &self.group)
            .field("posts", &self.mailbox.len())
            .finish_non_exhaustive()
    }
}

impl LoopHandle {
    pub(super) fn new(group: u64, index: usize, waker: Waker) -> LoopHandle {
        static NEXT_LOOP: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_LOOP.fetch_add(1, Ordering::Relaxed);
        LoopHandle {
            id,
            group,
            index,
            waker,
            mailbox: Posts::new(),
        }
    }

    /// The group that the loop belongs to.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// The loop's position in its group.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Whether this thread is the loop's own.
    pub(crate) fn is_current(&self) -> bool {
        LOOP.get().0 == self.id
    }

    /// Posts a message, waking the loop if it sleeps and has not been woken yet.
    ///
    /// # Errors
    /// Gives the message back when the loop has ended.
    pub(crate) fn post(&self, post: Post) -> Result<(), Post> {
        if self.is_current() {
            LOCAL_POSTS.with_borrow_mut(|posts| posts.push(post));
            return Ok(());
        }
        let wake = self.mailbox.leave(post)?;
        if wake && let Err(error) = self.waker.wake() {
            tracing::error!(%error, "an event loop cannot be woken");
        }
        Ok(())
    }

    // ---- for the loop's own thread

    /// Makes this thread the loop's.
    pub(super) fn enter(&self) -> Entered<'_> {
        LOOP.set((self.id, self.group));
        Entered { handle: self }
    }

    /// Declares the loop asleep; `false` if there is something to do first.
    pub(super) fn fall_asleep(&self) -> bool {
        !LoopHandle::has_local_posts() && self.mailbox.fall_asleep()
    }

    /// Whether other threads have left something.
    pub(super) fn has_posts(&self) -> bool {
        self.mailbox.len() > 0
    }

    /// Whether the loop's thread has left something to itself.
    pub(super) fn has_local_posts() -> bool {
        LOCAL_POSTS.with_borrow(|posts| !posts.is_empty())
    }

    /// Declares the loop awake and moves the posts of other threads to `posts`, which is empty.
    pub(super) fn collect(&self, posts: &mut Vec<Post>) {
        self.mailbox.collect(posts);
    }

    /// Moves the posts of the loop's own thread to `posts`, which is empty.
    pub(super) fn collect_local(posts: &mut Vec<Post>) {
        debug_assert!(posts.is_empty());
        LOCAL_POSTS.with_borrow_mut(|local| std::mem::swap(local, posts));
    }
}

/// While it lives, this thread is the loop's. Closes the mailbox when the thread leaves.
pub(super) struct Entered<'a> {
    handle: &'a LoopHandle,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // What the posts hold may post in turn, so no lock or borrow is held here.
        drop(self.handle.mailbox.close());
        drop(LOCAL_POSTS.take());
        LOOP.set((0, 0));
    }
}
