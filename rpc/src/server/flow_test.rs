//! What holds a stream back, and when. Who races whom there: `handover/models/streaming.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::flow::{Flow, ITEM_CREDIT};
use super::room::Room;
use crate::error::{Code, RpcError};
use crate::stream::StreamError;

#[test]
fn whoever_waits_is_told_once() {
    let told = Arc::new(AtomicUsize::new(0));
    let flow = Flow::new(1);
    let tell = || {
        let told = Arc::clone(&told);
        flow.on_ready(Box::new(move || {
            told.fetch_add(1, Ordering::Relaxed);
        }));
    };
    tell();
    assert_eq!(told.load(Ordering::Relaxed), 1, "there is credit");
    let room = Room::new(0);
    assert_eq!(flow.take(5, 9, &room), Ok(()));
    tell();
    flow.add_credit(ITEM_CREDIT + 4);
    assert_eq!(
        told.load(Ordering::Relaxed),
        1,
        "the credit is still overdrawn"
    );
    flow.add_credit(1);
    flow.add_credit(1);
    assert_eq!(told.load(Ordering::Relaxed), 2);
    let refused = flow.take(5, 9, &room);
    assert_eq!(refused, Err(StreamError::WouldBlock), "there is no room");
    tell();
    assert_eq!(told.load(Ordering::Relaxed), 2);
    flow.close(RpcError::new(Code::Cancelled, "first"));
    flow.close(RpcError::new(Code::Unavailable, "second"));
    assert_eq!(told.load(Ordering::Relaxed), 3);
    let Err(StreamError::Closed(error)) = flow.take(5, 9, &room) else {
        panic!("it is closed");
    };
    assert_eq!(error.text(), "first");
}

#[test]
fn the_last_item_may_take_more_room_than_there_is_and_half_of_it_must_be_free_again() {
    let room = Room::new(10);
    assert!(room.reserve(6) && room.reserve(6));
    assert!(!room.reserve(1));
    room.note_collected(12, 12);
    assert!(!room.note_unsent(6), "more than half of it is taken");
    assert!(room.note_unsent(5));
    assert!(!room.note_unsent(0), "they were told");
    assert!(room.reserve(1));
}
