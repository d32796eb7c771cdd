//! A stream's senders against what they wait for: credit, room at the connection, or the end. Of the
//! connection's turns there are only those in which it flushes; one that reads no more for want of room
//! collects and writes as well, in the same order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use loom::thread;

use super::book::Book;
use super::call::Call;
use super::call_state::CallState;
use super::flow::{Flow, ITEM_CREDIT};
use super::in_every_order;
use super::poll::Poll;
use super::room::Room;
use super::tray::Tray;
use crate::error::Code;
use crate::stream::StreamError;

const ID: u64 = 7;
const OTHER_ID: u64 = 8;

const ITEM_BYTES: u32 = 4;
const FRAME_BYTES: usize = 10;
/// What an item takes.
const ITEM_COST: u32 = ITEM_BYTES + ITEM_CREDIT;

/// In a model no wait is that long: a sender that nobody wakes fails it.
const LONG: Duration = Duration::from_secs(1);

/// A call that streams, another one, and their connection.
struct Scene {
    book: Book,
    flow: Arc<Flow>,
    /// Has credit for any number of items.
    other: Arc<Flow>,
    room: Room,
    /// Frames that were left for the connection.
    mailed: Tray<usize>,
    notice: Poll,
}

impl Scene {
    /// A caller that is ready to hold `items`, at a connection that has room for one.
    fn with_credit_for(items: u32) -> Arc<Scene> {
        let call = |request_id| Call {
            request_id,
            deadline: None,
            state: CallState::new(),
        };
        let scene = Scene {
            book: Book::default(),
            // The last item may overdraw it.
            flow: Arc::new(Flow::new(items.saturating_sub(1) * ITEM_COST + 1)),
            other: Arc::new(Flow::new(0)),
            room: Room::new(1),
            mailed: Tray::new(0),
            notice: Poll::default(),
        };
        assert!(scene.book.enter_stream(&call(ID), &scene.flow));
        assert!(scene.book.enter_stream(&call(OTHER_ID), &scene.other));
        Arc::new(scene)
    }

    fn without_credit() -> Arc<Scene> {
        let scene = Scene::with_credit_for(1);
        assert_eq!(scene.take(&scene.flow), Ok(()));
        scene
    }

    // ---- senders

    fn take(&self, flow: &Flow) -> Result<(), StreamError> {
        flow.take(ITEM_BYTES, FRAME_BYTES, &self.room)
    }

    /// `StreamSender::send`, and `ReplyPath::send_item`.
    fn send(&self, flow: &Flow, longest: Duration) -> Result<(), StreamError> {
        loop {
            match self.take(flow) {
                Err(StreamError::WouldBlock) => flow.wait(longest),
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        let mut mailed = self.mailed.lock();
        *mailed += 1;
        if mailed.tell() {
            self.notice.wake();
        }
        Ok(())
    }

    // ---- the connection

    /// `Connection::flush`, whose socket takes everything or nothing.
    fn flush(&self, unsent: &mut usize, takes: bool) {
        let item_bytes = FRAME_BYTES * std::mem::take(&mut *self.mailed.look());
        *unsent += item_bytes;
        self.room.note_collected(*unsent, item_bytes);
        if takes {
            *unsent = 0;
        }
        if self.room.note_unsent(*unsent) {
            for flow in self.book.flows() {
                flow.has_room();
            }
        }
    }

    /// All that was taken has left the socket.
    fn make_room(&self) {
        self.room.note_collected(0, FRAME_BYTES);
    }
}

fn spawn<T: 'static>(
    scene: &Arc<Scene>,
    work: impl FnOnce(&Scene) -> T + 'static,
) -> thread::JoinHandle<T> {
    let scene = Arc::clone(scene);
    thread::spawn(move || work(&scene))
}

fn two_senders(scene: &Arc<Scene>) -> [thread::JoinHandle<Result<(), StreamError>>; 2] {
    [(); 2].map(|()| spawn(scene, |scene| scene.send(&scene.flow, LONG)))
}

/// Of two streams.
fn senders_of_two(scene: &Arc<Scene>) -> [thread::JoinHandle<Result<(), StreamError>>; 2] {
    let one = spawn(scene, |scene| scene.send(&scene.flow, LONG));
    let other = spawn(scene, |scene| scene.send(&scene.other, LONG));
    [one, other]
}

#[test]
fn senders_without_credit_go_on_when_it_comes() {
    in_every_order(|| {
        let scene = Scene::without_credit();
        scene.make_room();
        let sender = spawn(&scene, |scene| scene.send(&scene.flow, LONG));
        // It was overdrawn, so the first half is not enough.
        scene.flow.add_credit(ITEM_COST / 2);
        scene.flow.add_credit(ITEM_COST - ITEM_COST / 2);
        assert_eq!(sender.join().unwrap(), Ok(()));
        let callback = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&callback);
        let waits = spawn(&scene, move |scene| {
            scene.flow.on_ready(Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }));
        });
        scene.make_room();
        scene.flow.has_room();
        scene.flow.add_credit(ITEM_COST);
        waits.join().unwrap();
        assert_eq!(callback.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn two_senders_share_the_credit_that_comes() {
    in_every_order(|| {
        let scene = Scene::without_credit();
        scene.make_room();
        let senders = two_senders(&scene);
        let mut unsent = 0;
        for _ in 0..2 {
            scene.flow.add_credit(ITEM_COST);
            scene.notice.sleep();
            scene.flush(&mut unsent, true);
        }
        for sender in senders {
            assert_eq!(sender.join().unwrap(), Ok(()));
        }
        assert_eq!(scene.flow.sent().0, 3);
    });
}

#[test]
fn senders_that_wait_end_when_the_call_is_cancelled() {
    in_every_order(|| {
        let scene = Scene::without_credit();
        let senders = two_senders(&scene);
        scene.book.cancel(ID, 4);
        for sender in senders {
            let Err(StreamError::Closed(error)) = sender.join().unwrap() else {
                panic!("there is no credit");
            };
            assert_eq!(error.code(), Code::Cancelled);
        }
    });
}

#[test]
fn senders_that_wait_end_with_their_connection() {
    in_every_order(|| {
        let scene = Scene::without_credit();
        let sender = spawn(&scene, |scene| scene.send(&scene.flow, LONG));
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        let waits = spawn(&scene, move |scene| {
            scene.flow.on_ready(Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }));
        });
        scene.book.close();
        let Err(StreamError::Closed(error)) = sender.join().unwrap() else {
            panic!("there is no credit");
        };
        assert_eq!(error.code(), Code::Unavailable);
        waits.join().unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 1);
    });
}

/// One of two senders has waited too long, while credit for one item comes.
#[test]
fn a_sender_that_gives_up_ends_the_stream_for_all_or_has_sent() {
    in_every_order(|| {
        let scene = Scene::without_credit();
        scene.make_room();
        let patient = spawn(&scene, |scene| scene.send(&scene.flow, LONG));
        let impatient = spawn(&scene, |scene| scene.send(&scene.flow, Duration::ZERO));
        scene.flow.add_credit(ITEM_COST);
        let impatient = impatient.join().unwrap();
        if impatient.is_ok() {
            scene.make_room();
            scene.flow.has_room();
            scene.flow.add_credit(ITEM_COST);
        }
        let patient = patient.join().unwrap();
        assert!(impatient.is_ok() || scene.flow.is_closed());
        assert_eq!(scene.flow.given_up().is_some(), impatient.is_err());
        let closed = |outcome| match outcome {
            Err(StreamError::Closed(error)) => error.code() == Code::ResourceExhausted,
            outcome => outcome.is_ok(),
        };
        assert!(closed(impatient) && closed(patient));
    });
}

#[test]
fn a_sender_for_whom_credit_has_come_does_not_give_up() {
    in_every_order(|| {
        let scene = Scene::without_credit();
        scene.make_room();
        let sender = spawn(&scene, |scene| scene.send(&scene.flow, Duration::ZERO));
        scene.flow.add_credit(ITEM_COST);
        let was_closed = scene.flow.is_closed();
        assert_eq!(sender.join().unwrap().is_err(), was_closed);
    });
}

#[test]
fn senders_without_room_go_on_when_there_is_some() {
    in_every_order(|| {
        let scene = Scene::with_credit_for(1);
        let senders = senders_of_two(&scene);
        let mut unsent = 0;
        while scene.flow.sent().0 + scene.other.sent().0 < 2 {
            scene.notice.sleep();
            scene.flush(&mut unsent, false);
            // The socket reports that it takes more.
            scene.flush(&mut unsent, true);
        }
        for sender in senders {
            assert_eq!(sender.join().unwrap(), Ok(()));
        }
    });
}

#[test]
fn senders_without_room_end_with_their_connection() {
    in_every_order(|| {
        let scene = Scene::with_credit_for(1);
        let senders = senders_of_two(&scene);
        scene.book.close();
        let mut sent = 0;
        for sender in senders {
            match sender.join().unwrap() {
                Ok(()) => sent += 1,
                Err(StreamError::Closed(error)) => assert_eq!(error.code(), Code::Unavailable),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent <= 1, "there is room for one");
    });
}

#[test]
fn two_senders_do_not_take_the_same_credit() {
    in_every_order(|| {
        let scene = Scene::with_credit_for(1);
        let other = spawn(&scene, |scene| scene.take(&scene.flow));
        let taken = [scene.take(&scene.flow), other.join().unwrap()];
        assert_eq!(taken.iter().filter(|it| it.is_ok()).count(), 1);
    });
}

#[test]
fn what_comes_to_the_socket_leaves_no_room_that_it_has_not_left() {
    in_every_order(|| {
        let scene = Scene::with_credit_for(1);
        assert_eq!(scene.send(&scene.flow, LONG), Ok(()));
        let other = spawn(&scene, |scene| scene.take(&scene.other));
        scene.flush(&mut 0, false);
        assert_eq!(other.join().unwrap(), Err(StreamError::WouldBlock));
    });
}

#[test]
fn two_streams_do_not_take_the_same_room() {
    in_every_order(|| {
        let scene = Scene::with_credit_for(1);
        let other = spawn(&scene, |scene| scene.take(&scene.other));
        let taken = [scene.take(&scene.flow), other.join().unwrap()];
        assert_eq!(taken.iter().filter(|it| it.is_ok()).count(), 1);
    });
}
