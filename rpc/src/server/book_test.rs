//! What a book keeps, and for how long. Who races whom there: `handover/models/answering.rs`.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::book::{Asked, Book};
use super::call::Call;
use super::flow::Flow;

/// As an answered call does.
fn leave(book: &Book, call: &Call) {
    if let Some(entry) = call.state.answer() {
        book.leave(call.request_id, entry);
    }
}

#[test]
fn cancelled_ids_that_nobody_asks_about_are_remembered_up_to_a_bound() {
    let book = Book::default();
    for id in 1..10_000 {
        book.cancel(id, 4);
    }
    let remembered = (1..10_000).filter(|&id| book.was_canceled(id)).count();
    assert_eq!(remembered, 4);
    assert!(book.was_canceled(9_999) && !book.was_canceled(1));
    book.forget_early(9_999);
    assert!(!book.was_canceled(9_999));
    book.forget_all_early();
    assert!(!book.was_canceled(9_998));
    book.close();
    assert!(book.was_canceled(1), "nobody waits on a closed connection");
}

#[test]
fn calls_leave_no_deadlines_and_entries_behind() {
    let book = Book::default();
    let context = crate::RpcContext::local("S", "M");
    let deadline = Instant::now() + Duration::from_mins(1);
    let context = context.with_deadline(Some(deadline));
    let call = &*context.call;
    assert!(matches!(
        book.on_cancel(call, Box::new(|| {}), None),
        Ok(true)
    ));
    assert!(matches!(
        book.on_cancel(call, Box::new(|| {}), None),
        Ok(false)
    ));
    assert_eq!(book.next_deadline(), Some(deadline));
    leave(&book, call);
    assert_eq!(book.next_deadline(), None);
    assert!(book.is_empty());
}

/// A careless caller may use an id for several calls at a time.
#[test]
fn a_call_that_leaves_takes_nothing_of_another_with_its_id() {
    let book = Book::default();
    let (stream, unary) = (Call::local("S", "M"), Call::local("S", "M"));
    let id = stream.request_id;
    assert_eq!(id, unary.request_id);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = || {
        let runs = Arc::clone(&runs);
        Box::new(move || {
            runs.fetch_add(1, Ordering::Relaxed);
        })
    };
    assert!(book.enter_stream(&stream, &Arc::new(Flow::new(1))));
    assert!(matches!(book.on_cancel(&stream, count(), None), Ok(false)));
    assert!(matches!(book.on_cancel(&unary, count(), None), Ok(false)));
    leave(&book, &unary);
    assert!(book.flow(id).is_some());
    assert_eq!(book.ask(&stream), Asked::Wanted);
    assert_eq!(book.ask(&unary), Asked::Answered);
    book.cancel(id, 4);
    assert_eq!(book.ask(&stream), Asked::Canceled);
    assert_eq!(runs.load(Ordering::Relaxed), 1, "the stream's");
    leave(&book, &stream);
    assert!(book.is_empty());
}

#[test]
fn callbacks_about_what_is_gone_are_forgotten_and_the_others_are_run() {
    let book = Book::default();
    let call = Call::local("S", "M");
    let runs = Arc::new(AtomicUsize::new(0));
    let leave_about = |about| {
        let runs = Arc::clone(&runs);
        let callback = Box::new(move || {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert!(matches!(book.on_cancel(&call, callback, about), Ok(false)));
    };
    let lasting: Vec<Arc<dyn Any + Send + Sync>> = vec![Arc::new(()), Arc::new(())];
    for it in &lasting {
        leave_about(Some(Arc::downgrade(it)));
    }
    leave_about(None);
    for _ in 0..1000 {
        let gone: Arc<dyn Any + Send + Sync> = Arc::new(());
        leave_about(Some(Arc::downgrade(&gone)));
    }
    assert!(book.callbacks() <= 8, "{} are left", book.callbacks());
    // Those that last are told, however many have come and gone.
    for _ in 0..20 {
        leave_about(None);
    }
    book.cancel(call.request_id, 4);
    assert!(runs.load(Ordering::Relaxed) >= 23);
    assert!(runs.load(Ordering::Relaxed) < 40);
}
