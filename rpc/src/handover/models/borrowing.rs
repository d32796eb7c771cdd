//! A connection that its loop lends to callers: it is never lost, and comes back when it is wanted.
//!
//! That it is in one hand at a time needs no model: it is moved.

use std::sync::Arc;

use loom::thread;

use super::in_every_order;
use super::lending::Lending;
use super::poll::Poll;
use super::tray::Tray;

/// A connection, with the calls that were sent on it.
struct Connection {
    calls: Vec<u32>,
    /// Whoever holds another clone sees whether it is gone.
    _alive: Arc<()>,
}

/// A channel whose connection is lent.
struct Scene {
    lending: Lending<Connection, Arc<Poll>>,
    queue: Tray<Vec<u32>>,
    /// Wakes the loop for its driver.
    notice: Poll,
    alive: Arc<()>,
}

impl Scene {
    fn new() -> Arc<Scene> {
        let alive = Arc::new(());
        let scene = Scene {
            lending: Lending::new(),
            queue: Tray::new(Vec::new()),
            notice: Poll::default(),
            alive: Arc::clone(&alive),
        };
        scene.lending.lend(Connection {
            calls: Vec::new(),
            _alive: alive,
        });
        Arc::new(scene)
    }

    // ---- callers

    /// The beginning of `Loans::borrow`.
    fn borrow(&self, seat: &Arc<Poll>) -> Option<Connection> {
        let lending = &self.lending;
        lending
            .may_be_idle()
            .then(|| lending.borrow(|_| Arc::clone(seat)))?
    }

    /// The drop of `Borrowed`.
    fn give_back(&self, connection: Connection, lend_on: bool) {
        if self.lending.give_back(connection, lend_on) {
            self.notice.wake();
        }
    }

    /// `ChannelShared::queue_frame` without a borrowed connection.
    fn leave(&self, call: u32) {
        let mut queue = self.queue.lock();
        queue.push(call);
        if queue.tell() {
            self.notice.wake();
        }
    }

    /// A blocking call, of which the server never hears: `ChannelShared::begin` and
    /// `Borrowed::drive`.
    fn call(&self, call: u32) {
        let seat = Arc::new(Poll::default());
        let Some(mut connection) = self.borrow(&seat) else {
            return self.leave(call);
        };
        seat.look();
        if self.queue.lock().is_told() {
            self.leave(call);
            return self.give_back(connection, true);
        }
        connection.calls.push(call);
        while !self.lending.is_recalled() {
            seat.sleep();
        }
        self.give_back(connection, false);
    }

    /// A blocking call that is answered at once, if the connection is to be had.
    fn use_once(&self, lend_on: bool) -> bool {
        let connection = self.borrow(&Arc::default());
        let used = connection.is_some();
        if let Some(connection) = connection {
            self.give_back(connection, lend_on);
        }
        used
    }

    // ---- the driver

    /// `Driver::fetch`.
    fn fetch(&self) -> Option<Connection> {
        self.lending.fetch().map_err(|seat| seat.wake()).ok()
    }

    fn is_gone(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }
}

fn spawn<T: 'static>(
    scene: &Arc<Scene>,
    work: impl FnOnce(&Scene) -> T + 'static,
) -> thread::JoinHandle<T> {
    let scene = Arc::clone(scene);
    thread::spawn(move || work(&scene))
}

/// A model in which the caller sleeps on, or the loop, fails: nobody else would wake them.
#[test]
fn a_caller_with_the_connection_lets_the_loop_have_it_for_another() {
    in_every_order(|| {
        let scene = Scene::new();
        let drives = spawn(&scene, |scene| scene.call(1));
        let another = spawn(&scene, |scene| scene.leave(2));
        let (mut home, mut calls) = (None::<Connection>, Vec::new());
        while calls.len() < 2 {
            scene.notice.sleep();
            // `Driver::look`
            if home.is_none() {
                let Some(mut connection) = scene.fetch() else {
                    continue;
                };
                calls.append(&mut connection.calls);
                home = Some(connection);
            }
            calls.append(&mut scene.queue.look());
        }
        drives.join().unwrap();
        another.join().unwrap();
        calls.sort_unstable();
        assert_eq!(calls, [1, 2]);
        assert!(!scene.lending.may_be_idle() && !scene.is_gone());
    });
}

/// The driver's timer: nobody has left anything in the queue.
#[test]
fn a_connection_that_is_wanted_back_is_brought_by_a_caller_who_sleeps() {
    in_every_order(|| {
        let scene = Scene::new();
        let drives = spawn(&scene, |scene| scene.call(1));
        if scene.fetch().is_none() {
            scene.notice.sleep();
            let fetched = scene.fetch();
            let connection = fetched.expect("whoever had it has given it back");
            assert_eq!(connection.calls, [1]);
        }
        drives.join().unwrap();
    });
}

#[test]
fn a_connection_that_is_wanted_back_while_callers_use_it_comes_back() {
    in_every_order(|| {
        let scene = Scene::new();
        let users =
            [true, false].map(|lend_on| spawn(&scene, move |scene| scene.use_once(lend_on)));
        let connection = scene.fetch().unwrap_or_else(|| {
            scene.notice.sleep();
            let fetched = scene.fetch();
            fetched.expect("whoever was to give it back has done so")
        });
        for user in users {
            user.join().unwrap();
        }
        assert!(!scene.lending.may_be_idle());
        scene.lending.lend(connection);
        assert!(scene.use_once(true), "it can be lent again");
    });
}

#[test]
fn a_connection_that_was_given_back_is_there_for_the_next_caller() {
    in_every_order(|| {
        let scene = Scene::new();
        let another = spawn(&scene, |scene| scene.use_once(true));
        let used = scene.use_once(true);
        assert!(another.join().unwrap() || used, "one of them gets it");
        assert!(!scene.lending.is_unused() && scene.lending.is_unused());
        assert!(scene.use_once(true));
        assert!(scene.fetch().is_some());
    });
}

#[test]
fn a_connection_whose_driver_goes_ends_whoever_has_it() {
    in_every_order(|| {
        let scene = Scene::new();
        let user = spawn(&scene, |scene| scene.use_once(true));
        let sleeper = spawn(&scene, |scene| scene.call(1));
        if let Some(seat) = scene.lending.abandon() {
            seat.wake();
        }
        user.join().unwrap();
        sleeper.join().unwrap();
        assert!(scene.is_gone());
        assert!(!scene.lending.may_be_idle(), "nobody looks for it any more");
        assert!(!scene.use_once(true));
    });
}
