//! A call's answer against those who ask whether it is still wanted, and against its connection's
//! end.
//!
//! That a call has one answer needs no model: `Done` and `ReplySlot` are moved into it. What
//! remains is the book, where handlers, the one who answers and the connection meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::thread;

use super::book::{Asked, Book};
use super::call::Call;
use super::call_state::CallState;
use super::in_every_order;

const ID: u64 = 7;

/// A call, the book of its connection, and what has become of the callback that its handler leaves.
#[derive(Clone)]
struct Scene {
    book: Arc<Book>,
    call: Arc<Call>,
    runs: Arc<AtomicUsize>,
    /// The callback holds a clone of it.
    alive: Arc<()>,
}

impl Scene {
    fn new() -> Scene {
        let call = Call {
            request_id: ID,
            deadline: None,
            state: CallState::new(),
        };
        Scene {
            book: Arc::new(Book::default()),
            call: Arc::new(call),
            runs: Arc::default(),
            alive: Arc::default(),
        }
    }

    /// `ReplyPath::on_cancel` and `Call::on_cancel`.
    fn leave_callback(&self) {
        let (runs, alive) = (Arc::clone(&self.runs), Arc::clone(&self.alive));
        let callback = Box::new(move || {
            runs.fetch_add(1, Ordering::Relaxed);
            drop(alive);
        });
        if let Err((Asked::Canceled, callback)) = self.book.on_cancel(&self.call, callback, None) {
            callback();
        }
    }

    /// `Call::conclude`.
    fn answer(&self) {
        if let Some(entry) = self.call.state.answer() {
            self.book.leave(ID, entry);
        }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// Whether the callback has been run or dropped.
    fn callback_is_gone(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }
}

/// Runs `work` on another thread. The scene that it is lent is gone when the thread is joined.
fn spawn(scene: &Scene, work: fn(&Scene)) -> thread::JoinHandle<()> {
    let scene = scene.clone();
    thread::spawn(move || work(&scene))
}

#[test]
fn a_callback_left_while_the_call_is_cancelled_runs_once() {
    in_every_order(|| {
        let scene = Scene::new();
        let handler = spawn(&scene, Scene::leave_callback);
        scene.book.cancel(ID, 4);
        handler.join().unwrap();
        assert_eq!(scene.runs(), 1);
        assert!(scene.callback_is_gone());
        scene.answer();
        assert!(scene.book.is_empty(), "{:?}", scene.book);
    });
}

#[test]
fn a_callback_left_while_the_connection_ends_runs_once() {
    in_every_order(|| {
        let scene = Scene::new();
        let handler = spawn(&scene, Scene::leave_callback);
        scene.book.close();
        handler.join().unwrap();
        assert_eq!(scene.runs(), 1);
        assert!(scene.callback_is_gone());
        assert!(scene.book.is_empty(), "{:?}", scene.book);
    });
}

#[test]
fn an_answer_leaves_no_entry_behind_of_a_call_that_is_asked_about_meanwhile() {
    in_every_order(|| {
        let scene = Scene::new();
        let asks = spawn(&scene, Scene::leave_callback);
        let asks_too = spawn(&scene, |scene| {
            scene.book.ask(&scene.call);
        });
        scene.answer();
        asks.join().unwrap();
        asks_too.join().unwrap();
        assert_eq!(scene.runs(), 0, "nobody cancelled it");
        assert!(scene.callback_is_gone());
        assert!(scene.book.is_empty(), "{:?}", scene.book);
    });
}

#[test]
fn an_answer_a_question_and_the_connections_end_leave_nothing_behind() {
    in_every_order(|| {
        let scene = Scene::new();
        let asks = spawn(&scene, Scene::leave_callback);
        let answers = spawn(&scene, Scene::answer);
        scene.book.close();
        asks.join().unwrap();
        answers.join().unwrap();
        assert!(scene.runs() <= 1);
        assert!(scene.callback_is_gone());
        assert!(scene.book.is_empty(), "{:?}", scene.book);
    });
}
