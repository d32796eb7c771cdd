//! [`Posts`]: what other threads leave for a loop, which may sleep.

use super::sync::Mutex;

/// Posts to a loop. The loop is woken at most once for all posts between two of its turns.
pub(crate) struct Posts<T> {
    inbox: Mutex<Inbox<T>>,
}

struct Inbox<T> {
    posts: Vec<T>,
    /// The loop sleeps, or is about to, and has not been woken since.
    sleeping: bool,
    closed: bool,
}

impl<T> Posts<T> {
    pub(crate) fn new() -> Posts<T> {
        Posts {
            inbox: Mutex::new(Inbox {
                posts: Vec::new(),
                sleeping: false,
                closed: false,
            }),
        }
    }

    /// Leaves a post; `true`: the loop must be woken, and nobody else will do it.
    ///
    /// # Errors
    /// Gives the post back when the loop has ended.
    pub(crate) fn leave(&self, post: T) -> Result<bool, T> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(post);
        }
        inbox.posts.push(post);
        Ok(std::mem::take(&mut inbox.sleeping))
    }

    /// How many posts wait.
    pub(crate) fn len(&self) -> usize {
        self.inbox.lock().posts.len()
    }

    // ---- for the loop's own thread

    /// Declares the loop asleep; `false` if there is something to do first.
    pub(crate) fn fall_asleep(&self) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.sleeping = inbox.posts.is_empty();
        inbox.sleeping
    }

    /// Declares the loop awake and moves the posts to `posts`, which is empty.
    pub(crate) fn collect(&self, posts: &mut Vec<T>) {
        debug_assert!(posts.is_empty());
        let mut inbox = self.inbox.lock();
        inbox.sleeping = false;
        std::mem::swap(&mut inbox.posts, posts);
    }

    /// The loop ends: no more posts are taken, and those that are left come back.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        std::mem::take(&mut inbox.posts)
    }
}
