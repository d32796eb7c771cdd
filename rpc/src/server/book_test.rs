//! What a book keeps, and for how long. Who races whom there: `handover/models/answering.rs`.

use std::time::{Duration, Instant};

use super::book::Book;

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
    assert!(matches!(book.on_cancel(call, Box::new(|| {})), Ok(true)));
    assert!(matches!(book.on_cancel(call, Box::new(|| {})), Ok(false)));
    assert_eq!(book.next_deadline(), Some(deadline));
    book.leave(call.request_id);
    assert_eq!(book.next_deadline(), None);
    assert!(book.is_empty());
}
