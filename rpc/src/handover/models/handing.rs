//! Trays: what is left on one is taken once, or its owner learns that nobody will take it.

use std::sync::Arc;

use loom::thread;

use super::in_every_order;
use super::sync::Mutex;
use super::tray::Tray;

/// A call or a reply, which counts how often it ended.
struct Item(Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Item {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The source's notice, which its loop keeps until it gets round to it: see `waking` for that part.
#[derive(Default)]
struct Notice(Mutex<bool>);

impl Notice {
    fn give(&self) {
        *self.0.lock() = true;
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Leaves an item as callers and handlers do; `false`: there is nobody to leave it to.
fn leave<T>(tray: &Tray<Vec<T>>, notice: &Notice, item: T) -> bool {
    let mut left = tray.lock();
    if left.is_closed() {
        return false;
    }
    left.push(item);
    if left.tell() {
        notice.give();
    }
    true
}

/// `ReplyPath::mail` and `collect`, `ChannelShared::notify` and `take`.
#[test]
fn whoever_leaves_something_is_looked_after() {
    in_every_order(|| {
        let tray = Arc::new(Tray::new(Vec::new()));
        let notice = Arc::new(Notice::default());
        let leavers = [1, 2].map(|item| {
            let (tray, notice) = (Arc::clone(&tray), Arc::clone(&notice));
            thread::spawn(move || assert!(leave(&tray, &notice, item)))
        });
        let mut taken = Vec::new();
        let mut look = || {
            while notice.take() {
                taken.append(&mut tray.look());
            }
        };
        look();
        look();
        for leaver in leavers {
            leaver.join().unwrap();
        }
        // What comes now is the last chance: nobody will tell again.
        look();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

/// A channel's driver looks once before anybody tells it to: when it has come to its loop.
#[test]
fn a_call_that_is_begun_before_its_driver_is_there_is_found_by_its_first_look() {
    in_every_order(|| {
        let tray = Arc::new(Tray::told(Vec::new()));
        let notice = Arc::new(Notice::default());
        let caller = {
            let (tray, notice) = (Arc::clone(&tray), Arc::clone(&notice));
            thread::spawn(move || assert!(leave(&tray, &notice, 1)))
        };
        let mut taken = std::mem::take(&mut *tray.look());
        caller.join().unwrap();
        if notice.take() {
            taken.append(&mut tray.look());
        }
        assert_eq!(taken, [1]);
    });
}

/// `Driver::on_ready`: what is left between the driver's word and its look is found by the look.
#[test]
fn a_taker_that_said_it_will_look_finds_what_nobody_told_it_of() {
    in_every_order(|| {
        let tray = Arc::new(Tray::new(Vec::new()));
        let notice = Arc::new(Notice::default());
        let leavers = [1, 2].map(|item| {
            let (tray, notice) = (Arc::clone(&tray), Arc::clone(&notice));
            thread::spawn(move || assert!(leave(&tray, &notice, item)))
        });
        tray.will_look();
        let mut taken = std::mem::take(&mut *tray.look());
        for leaver in leavers {
            leaver.join().unwrap();
        }
        if notice.take() {
            taken.append(&mut tray.look());
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

/// `ReplyPath::close` against handlers' replies, `ChannelShared::abandon` against new calls.
#[test]
fn what_is_left_while_the_taker_goes_ends_once() {
    in_every_order(|| {
        let ended = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tray = Arc::new(Tray::new(Vec::new()));
        let notice = Arc::new(Notice::default());
        let leavers = [(); 2].map(|()| {
            let (tray, notice) = (Arc::clone(&tray), Arc::clone(&notice));
            let item = Item(Arc::clone(&ended));
            thread::spawn(move || {
                leave(&tray, &notice, item);
            })
        });
        if notice.take() {
            let taken = std::mem::take(&mut *tray.look());
            drop(taken);
        }
        let orphans = std::mem::take(&mut *tray.close());
        drop(orphans);
        for leaver in leavers {
            leaver.join().unwrap();
        }
        assert!(tray.lock().is_empty(), "nothing is left behind");
        assert_eq!(ended.load(std::sync::atomic::Ordering::Relaxed), 2);
    });
}
