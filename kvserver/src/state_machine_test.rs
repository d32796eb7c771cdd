//! The state machine: pairs, the order of the log, the digest, failures.

use bytes::Bytes;

use crate::codec::{self, DecodeError};
use crate::command::{Command, LogTime, Writer};
use crate::engine::{Engine, EngineError, MemoryEngine, MemoryView, Pair};
use crate::outcome::{Outcome, Reply};
use crate::state_machine::{Applied, ApplyError, StateMachine, StateMachineOptions};
use crate::test_kit::{RAN, append, at, new_store, open_at, put, session, tight_options};

// Pairs.

/// The original's defect 6: its Append overwrites.
#[test]
fn append_adds_to_what_is_there_and_put_replaces_it() {
    let mut store = new_store(StateMachineOptions::default());
    store.apply_next(&at(0, Writer::None, append("k", "one ")));
    store.apply_next(&at(0, Writer::None, append("k", "two")));
    assert_eq!(store.text("k"), "one two");
    store.apply_next(&at(0, Writer::None, put("k", "three")));
    assert_eq!(store.text("k"), "three");
    store.apply_next(&at(0, Writer::None, append("k", "")));
    assert_eq!(store.text("k"), "three");
    store.apply_next(&at(0, Writer::None, append("", "")));
    assert_eq!(
        store.get(b"").unwrap(),
        Some(Bytes::new()),
        "created, if only empty"
    );
    assert_eq!(store.get(b"absent").unwrap(), None);
    assert_eq!(store.key_count(), 2);
    assert_eq!(store.data_bytes(), 6);
}

#[test]
fn no_value_grows_past_its_bound_and_the_refusal_is_repeated() {
    let mut store = new_store(tight_options());
    store.apply_next(&open_at(0));
    let full = "x".repeat(40);
    let too_large = Reply::ValueTooLarge;

    assert_eq!(
        store.apply_next(&at(0, session(1, 1, 0), append("k", &full))),
        RAN
    );
    let outcome = store.apply_next(&at(0, session(1, 2, 0), append("k", "y")));
    assert_eq!(outcome, Outcome::Applied(too_large.clone()));
    assert_eq!(store.text("k"), full);
    let outcome = store.apply_next(&at(0, session(1, 3, 0), put("k", &format!("{full}y"))));
    assert_eq!(outcome, Outcome::Applied(too_large.clone()));
    assert_eq!(store.text("k"), full);

    store.apply_next(&at(0, session(1, 4, 0), put("k", "")));
    let outcome = store.apply_next(&at(0, session(1, 2, 0), append("k", "y")));
    assert_eq!(
        outcome,
        Outcome::Repeated(too_large),
        "the first reply, not a second try"
    );
    assert_eq!(store.text("k"), "");
}

/// A key or value must not keep alive the buffer that its command came in.
#[test]
fn what_is_stored_owns_its_memory() {
    let mut store = new_store(StateMachineOptions::default());
    let entry = codec::encode(&at(0, Writer::None, put("key", "value"))).unwrap();
    store.apply(1, 1, &entry).unwrap();
    let buffer = entry.as_ptr_range();
    for (key, value) in store.engine.iter().map(Result::unwrap) {
        assert!(!buffer.contains(&key.as_ptr()) && !buffer.contains(&value.as_ptr()));
    }
}

// The log.

/// Failures 51, 80: what comes twice or out of turn is refused.
#[test]
fn entries_are_applied_in_order_each_once() {
    let mut store = new_store(StateMachineOptions::default());
    let entry = codec::encode(&at(0, Writer::None, append("k", "x"))).unwrap();
    assert_eq!(store.apply_empty(1, 3).unwrap(), Outcome::Nothing);
    assert_eq!(store.apply(2, 3, &entry).unwrap(), RAN);

    for index in [0, 1, 2, 4, u64::MAX] {
        let refused = store.apply(index, 3, &entry).unwrap_err();
        assert!(
            matches!(refused, ApplyError::OutOfOrder { .. }),
            "{index}: {refused}"
        );
        let refused = store.apply_empty(index, 3).unwrap_err();
        assert!(
            matches!(refused, ApplyError::OutOfOrder { .. }),
            "{index}: {refused}"
        );
    }
    let refused = store.apply(3, 2, &entry).unwrap_err();
    assert!(
        matches!(refused, ApplyError::TermWentBack { .. }),
        "{refused}"
    );

    assert_eq!(store.last_applied(), Applied { index: 2, term: 3 });
    assert_eq!(store.text("k"), "x");
}

/// A node that skipped what it cannot read would part from those that can.
#[test]
fn an_entry_of_an_unknown_version_is_not_applied() {
    let mut store = new_store(StateMachineOptions::default());
    let digest = store.digest();
    let mut entry = codec::encode(&open_at(7)).unwrap().to_vec();
    entry[0] = 2;
    let refused = store.apply(1, 1, &entry).unwrap_err();
    assert!(
        matches!(
            refused,
            ApplyError::Decode {
                index: 1,
                source: DecodeError::UnknownVersion { version: 2 }
            }
        ),
        "{refused}"
    );
    assert_eq!(store.last_applied(), Applied::default());
    assert_eq!(store.log_time(), LogTime::ZERO);
    assert_eq!(store.digest(), digest);
}

#[test]
fn the_digest_tells_histories_apart() {
    let entry = |value| at(0, Writer::None, append("k", value));
    let digest_of = |commands: &[Command]| {
        let mut store = new_store(StateMachineOptions::default());
        for command in commands {
            store.apply_next(command);
        }
        store.digest()
    };
    let digests = [
        digest_of(&[]),
        digest_of(&[entry("a")]),
        digest_of(&[entry("a"), entry("b")]),
        digest_of(&[entry("b"), entry("a")]),
        digest_of(&[entry("ab")]),
    ];
    for (i, digest) in digests.iter().enumerate() {
        assert!(
            !digests[..i].contains(digest),
            "history {i} looks like an earlier one"
        );
    }
    assert_eq!(digests[2], digest_of(&[entry("a"), entry("b")]));

    let mut of_term_1 = new_store(StateMachineOptions::default());
    let mut of_term_2 = new_store(StateMachineOptions::default());
    of_term_1.apply_empty(1, 1).unwrap();
    of_term_2.apply_empty(1, 2).unwrap();
    assert_ne!(of_term_1.digest(), of_term_2.digest());
}

/// Same commands, other results: a node with other options is found out.
#[test]
fn the_digest_tells_results_apart() {
    let mut tight = new_store(tight_options());
    let mut wide = new_store(StateMachineOptions::default());
    let command = at(0, Writer::None, put("k", &"x".repeat(41)));
    assert_ne!(tight.apply_next(&command), wide.apply_next(&command));
    assert_ne!(tight.digest(), wide.digest());
}

/// An engine whose disk failed.
struct BrokenEngine(MemoryEngine);

impl Engine for BrokenEngine {
    type View = MemoryView;

    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Err(EngineError("disk".into()))
    }
    fn put(&mut self, _key: Bytes, _value: Bytes) -> Result<(), EngineError> {
        Err(EngineError("disk".into()))
    }
    fn remove(&mut self, _key: &[u8]) -> Result<bool, EngineError> {
        Err(EngineError("disk".into()))
    }
    fn clear(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
    fn iter(&self) -> impl Iterator<Item = Result<Pair, EngineError>> + '_ {
        self.0.iter()
    }
    fn begin_view(&mut self) -> Option<MemoryView> {
        self.0.begin_view()
    }
}

/// Failure 52: a failure that does not follow from the log is no result; it stops the node.
#[test]
fn a_failing_engine_is_an_error_and_no_outcome() {
    let engine = BrokenEngine(MemoryEngine::new());
    let mut store = StateMachine::new(engine, StateMachineOptions::default()).unwrap();
    for op in [put("k", "v"), append("k", "v")] {
        let entry = codec::encode(&at(0, Writer::None, op)).unwrap();
        let failed = store.apply(1, 1, &entry).unwrap_err();
        assert!(matches!(failed, ApplyError::Engine(_)), "{failed}");
    }
    assert_eq!(store.last_applied(), Applied::default());
    assert!(store.get(b"k").is_err());
}
