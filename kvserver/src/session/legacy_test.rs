//! Callers of the original, one test a rule. All its processes have one `ClientId`, by which it lost
//! writes: the original's defect 7.

use bytes::Bytes;

use super::MAX_CLIENT_ID_BYTES;
use crate::command::{Command, LogTime, Op, Writer};
use crate::engine::MemoryEngine;
use crate::outcome::{Outcome, Refusal, Reply};
use crate::state_machine::{StateMachine, StateMachineOptions};
use crate::test_kit::{RAN, REPEATED, append, at, legacy, new_store, put, tight_options};

const CLIENT: &str = "171463691516816927778469308861804289383";

fn ask(store: &mut StateMachine<MemoryEngine>, request: u64, op: Op) -> Outcome {
    store.apply_next(&at(0, legacy(CLIENT, request), op))
}

#[test]
fn the_next_request_runs_also_after_gaps() {
    let mut store = new_store(StateMachineOptions::default());
    assert_eq!(ask(&mut store, 1, append("k", "1")), RAN);
    assert_eq!(ask(&mut store, 2, append("k", "2")), RAN);
    assert_eq!(
        ask(&mut store, 5, append("k", "5")),
        RAN,
        "3 and 4 were Gets"
    );
    assert_eq!(store.text("k"), "125");
}

#[test]
fn the_last_request_again_is_a_duplicate_with_the_same_reply() {
    let mut store = new_store(tight_options());
    assert_eq!(ask(&mut store, 1, append("k", "1")), RAN);
    assert_eq!(ask(&mut store, 1, append("k", "1")), REPEATED);
    let too_large = append("k", &"x".repeat(40));
    let reply = Reply::ValueTooLarge;
    assert_eq!(
        ask(&mut store, 2, too_large.clone()),
        Outcome::Applied(reply.clone())
    );
    assert_eq!(ask(&mut store, 2, too_large), Outcome::Repeated(reply));
    assert_eq!(store.text("k"), "1");
}

#[test]
fn an_earlier_request_is_a_duplicate() {
    let mut store = new_store(StateMachineOptions::default());
    for request in [1, 2, 3] {
        ask(&mut store, request, append("k", "x"));
    }
    assert_eq!(ask(&mut store, 2, append("k", "x")), REPEATED);
    assert_eq!(store.text("k"), "xxx");
}

#[test]
fn request_1_past_the_first_begins_a_new_process() {
    let mut store = new_store(StateMachineOptions::default());
    for text in ["a", "b"] {
        assert_eq!(ask(&mut store, 1, append("k", text)), RAN);
        assert_eq!(ask(&mut store, 2, append("k", text)), RAN);
    }
    assert_eq!(
        store.text("k"),
        "aabb",
        "two stock clients, one after the other"
    );
}

#[test]
fn request_1_with_other_content_begins_a_new_process() {
    let mut store = new_store(StateMachineOptions::default());
    assert_eq!(ask(&mut store, 1, append("k", "a")), RAN);
    for other in [
        put("k", "a"),
        append("k", "b"),
        append("j", "b"),
        append("jb", ""),
    ] {
        assert_eq!(ask(&mut store, 1, other.clone()), RAN, "{other:?}");
        assert_eq!(ask(&mut store, 1, other.clone()), REPEATED, "{other:?}");
    }
    assert_eq!(store.text("k"), "ab");
}

#[test]
fn an_unknown_client_is_taken_at_any_number() {
    let mut store = new_store(StateMachineOptions::default());
    assert_eq!(ask(&mut store, 17, append("k", "x")), RAN);
    assert_eq!(ask(&mut store, 17, append("k", "x")), REPEATED);
    assert_eq!(store.legacy_client_count(), 1);
}

#[test]
fn a_process_that_begins_with_a_get_has_its_request_2_run() {
    let mut store = new_store(StateMachineOptions::default());
    let client = Bytes::from(CLIENT);
    let begin = Command::begin_legacy(LogTime::ZERO, client.clone());
    assert!(!store.needs_begin_legacy(&client), "unknown");
    ask(&mut store, 1, append("k", "1"));
    assert!(
        store.needs_begin_legacy(&client),
        "the same write as request 1 of yet another process would be taken for this one"
    );
    ask(&mut store, 2, append("k", "2"));
    assert!(store.needs_begin_legacy(&client));

    assert_eq!(store.apply_next(&begin), Outcome::Nothing);
    assert!(!store.needs_begin_legacy(&client));
    assert_eq!(ask(&mut store, 2, append("k", "b")), RAN);
    assert_eq!(ask(&mut store, 2, append("k", "b")), REPEATED);

    // A Get, and then another process, whose first request is a write.
    store.apply_next(&begin);
    assert_eq!(ask(&mut store, 1, append("k", "c")), RAN);
    assert_eq!(store.text("k"), "12bc");
}

#[test]
fn clients_expire_and_make_room() {
    let mut store = new_store(tight_options());
    for (millis, client) in [(0, "a"), (10, "b"), (20, "c"), (30, "d")] {
        store.apply_next(&at(millis, legacy(client, 7), append(client, "x")));
    }
    assert_eq!(store.legacy_client_count(), 3);
    store.apply_next(&at(30, legacy("a", 7), append("a", "x")));
    assert_eq!(store.text("a"), "xx", "forgotten, so run again");

    store.apply_next(&at(120, legacy("d", 7), append("d", "x"))); // c is idle for 100 ms
    assert_eq!(store.legacy_client_count(), 3);
    store.apply_next(&at(121, Writer::None, put("k", "")));
    assert_eq!(store.legacy_client_count(), 2);
    assert_eq!(store.text("d"), "x");
}

#[test]
fn client_ids_are_bounded() {
    let mut store = new_store(StateMachineOptions::default());
    let longest = "c".repeat(MAX_CLIENT_ID_BYTES);
    assert_eq!(
        store.apply_next(&at(0, legacy(&longest, 1), put("k", "v"))),
        RAN
    );

    let too_long = format!("{longest}c");
    let refused = Outcome::Refused(Refusal::ClientIdTooLong);
    let outcome = store.apply_next(&at(0, legacy(&too_long, 1), put("k", "w")));
    assert_eq!(outcome, refused);
    let begin = Command::begin_legacy(LogTime::ZERO, too_long.into());
    assert_eq!(store.apply_next(&begin), refused);
    assert_eq!(store.legacy_client_count(), 1);
    assert_eq!(store.text("k"), "v");
}
