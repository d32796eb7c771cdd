//! Sleep and wake: no post, and nothing that is waited for, finds a thread asleep for good.

use std::sync::Arc;

use loom::thread;

use super::in_every_order;
use super::poll::Poll;
use super::posts::Posts;
use super::waiter::Waiter;

#[derive(Default)]
struct Counted(std::sync::atomic::AtomicUsize);

impl Counted {
    fn add(&self, count: usize) {
        self.0
            .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Runs a loop until it has collected `count` posts.
fn collect(posts: &Posts<u32>, poll: &Poll, count: usize) -> Vec<u32> {
    let (mut collected, mut batch) = (Vec::new(), Vec::new());
    while collected.len() < count {
        if posts.fall_asleep() {
            poll.sleep();
        }
        posts.collect(&mut batch);
        collected.append(&mut batch);
    }
    collected
}

#[test]
fn a_loop_that_falls_asleep_misses_no_post() {
    in_every_order(|| {
        let posts = Arc::new(Posts::new());
        let poll = Arc::new(Poll::default());
        let posters = [1, 2].map(|post| {
            let (posts, poll) = (Arc::clone(&posts), Arc::clone(&poll));
            thread::spawn(move || {
                if posts.leave(post).expect("the loop runs") {
                    poll.wake();
                }
            })
        });
        let mut collected = collect(&posts, &poll, 2);
        collected.sort_unstable();
        assert_eq!(collected, [1, 2]);
        for poster in posters {
            poster.join().unwrap();
        }
    });
}

#[test]
fn posts_of_one_thread_stay_in_order() {
    in_every_order(|| {
        let posts = Arc::new(Posts::new());
        let poll = Arc::new(Poll::default());
        let poster = {
            let (posts, poll) = (Arc::clone(&posts), Arc::clone(&poll));
            thread::spawn(move || {
                for post in [1, 2, 3] {
                    if posts.leave(post).expect("the loop runs") {
                        poll.wake();
                    }
                }
            })
        };
        assert_eq!(collect(&posts, &poll, 3), [1, 2, 3]);
        poster.join().unwrap();
    });
}

#[test]
fn a_post_to_a_loop_that_ends_is_collected_or_comes_back() {
    in_every_order(|| {
        let posts = Arc::new(Posts::new());
        let came_back = Arc::new(Counted::default());
        let posters = [1, 2].map(|post| {
            let (posts, came_back) = (Arc::clone(&posts), Arc::clone(&came_back));
            thread::spawn(move || {
                if posts.leave(post).is_err() {
                    came_back.add(1);
                }
            })
        });
        let mut batch = Vec::new();
        posts.collect(&mut batch);
        let left = posts.close().len();
        for poster in posters {
            poster.join().unwrap();
        }
        assert_eq!(batch.len() + left + came_back.get(), 2);
        assert_eq!(posts.len(), 0, "nothing is left behind");
    });
}

#[test]
fn a_waiting_thread_gets_what_is_brought() {
    in_every_order(|| {
        let waiter = Waiter::new();
        let bringer = {
            let waiter = Arc::clone(&waiter);
            thread::spawn(move || waiter.finish("it"))
        };
        assert_eq!(waiter.wait(), "it");
        bringer.join().unwrap();
    });
}
