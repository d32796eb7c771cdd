//! The state machine's rules, one test each; and sessions against a model that scans everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::codec::{self, DecodeError};
use crate::command::{Command, LogTime, Op, SessionId, Writer};
use crate::engine::{Engine, EngineError, MemoryEngine, MemoryView, Pair};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::session::{MAX_CLIENT_ID_BYTES, MAX_REPLIES_PER_SESSION};
use crate::state_machine::{Applied, ApplyError, StateMachine, StateMachineOptions};
use crate::test_kit::{any_command, append, at, legacy, new_store, put, session, tight_options};

const RAN: Outcome = Outcome::Applied(Reply::Done);
const REPEATED: Outcome = Outcome::Repeated(Reply::Done);
const EXPIRED: Outcome = Outcome::Refused(Refusal::SessionExpired);

fn open_at(millis: u64) -> Command {
    Command::open_session(LogTime::from_millis(millis))
}

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

/// Failure checklist 52: a failure that does not follow from the log is no result; it stops the node.
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

// Sessions.

/// Failure checklist 122: a repeated request returns the first reply and changes nothing.
#[test]
fn a_session_is_named_by_its_entry_and_runs_each_request_once() {
    let mut store = new_store(StateMachineOptions::default());
    store.apply_empty(1, 1).unwrap();
    let opened = store.apply_next(&open_at(0));
    assert_eq!(opened, Outcome::SessionOpened(SessionId::new(2)));

    for (request, outcome) in [(2, RAN), (1, RAN), (2, REPEATED), (1, REPEATED)] {
        let text = format!("{request};");
        let command = at(0, session(2, request, 0), append("k", &text));
        assert_eq!(store.apply_next(&command), outcome);
    }
    assert_eq!(store.text("k"), "2;1;");
}

/// Failure checklist 123: a late retry of a session that is gone is refused, not run.
#[test]
fn a_request_of_an_unknown_session_is_refused() {
    let mut store = new_store(StateMachineOptions::default());
    assert_eq!(
        store.apply_next(&at(0, session(1, 1, 0), put("k", "v"))),
        EXPIRED
    );
    assert_eq!(store.key_count(), 0);
    assert_eq!(store.session_count(), 0);
}

#[test]
fn a_request_too_far_ahead_or_seen_already_is_refused() {
    let mut store = new_store(StateMachineOptions::default());
    store.apply_next(&open_at(0));
    let far = MAX_REPLIES_PER_SESSION + 6;
    let refused = store.apply_next(&at(0, session(1, far, 5), put("k", "far")));
    assert_eq!(refused, Outcome::Refused(Refusal::TooFarAhead));
    let refused = store.apply_next(&at(0, session(1, 5, 0), put("k", "seen")));
    assert_eq!(refused, Outcome::Refused(Refusal::StaleDuplicate));
    assert_eq!(store.key_count(), 0);
    assert_eq!(
        store.apply_next(&at(0, session(1, far - 1, 5), put("k", "v"))),
        RAN
    );
}

#[test]
fn an_idle_session_expires_by_the_logs_time() {
    let mut store = new_store(tight_options());
    store.apply_next(&open_at(1000));
    store.apply_next(&open_at(1001));
    assert_eq!(
        store.apply_next(&at(1100, session(1, 1, 0), put("k", "v"))),
        RAN
    );

    store.apply_next(&at(1101, Writer::None, put("k", "w")));
    assert_eq!(store.session_count(), 2, "idle for 100 ms, not for longer");
    store.apply_next(&at(1102, Writer::None, put("k", "w")));
    assert_eq!(store.session_count(), 1);
    assert_eq!(
        store.apply_next(&at(1102, session(2, 1, 0), put("k", "late"))),
        EXPIRED
    );

    // Its own request comes too late as well.
    assert_eq!(
        store.apply_next(&at(1201, session(1, 2, 0), put("k", "late"))),
        EXPIRED
    );
    assert_eq!(store.text("k"), "w");
}

/// A new leader's clock may lag behind the old one's.
#[test]
fn log_time_does_not_go_back() {
    let mut store = new_store(tight_options());
    store.apply_next(&open_at(1000));
    store.apply_next(&at(1050, Writer::None, put("k", "v")));
    store.apply_next(&at(3, session(1, 1, 0), put("k", "v"))); // used at 1050, not at 3
    assert_eq!(store.log_time(), LogTime::from_millis(1050));
    store.apply_next(&at(1150, Writer::None, put("k", "v")));
    assert_eq!(store.session_count(), 1);
}

#[test]
fn the_least_recently_used_session_makes_room() {
    let mut store = new_store(tight_options());
    for _ in 0..3 {
        store.apply_next(&open_at(0));
    }
    store.apply_next(&at(0, session(1, 1, 0), put("k", "v")));
    store.apply_next(&open_at(0)); // session 5, in the place of 2
    assert_eq!(store.session_count(), 3);
    assert_eq!(
        store.apply_next(&at(0, session(2, 1, 0), put("k", "w"))),
        EXPIRED
    );
    for id in [1, 3, 5] {
        assert_eq!(
            store.apply_next(&at(0, session(id, 9, 0), put("k", "v"))),
            RAN
        );
    }
}

/// What sessions must do, written so plainly that it can be seen to: everything is kept and scanned.
#[derive(Default)]
struct Model {
    sessions: BTreeMap<u64, ModelSession>,
    log_time: u64,
    value: String,
}

#[derive(Default)]
struct ModelSession {
    ran: Vec<u64>,
    seen_upto: u64,
    last_index: u64,
    last_time: u64,
}

impl Model {
    fn pass_time(&mut self, millis: u64, options: &StateMachineOptions) {
        self.log_time = self.log_time.max(millis);
        let ttl = u64::try_from(options.session_ttl.as_millis()).unwrap();
        self.sessions
            .retain(|_, session| self.log_time - session.last_time <= ttl);
    }

    fn open(&mut self, index: u64, options: &StateMachineOptions) -> Outcome {
        let session = ModelSession {
            last_index: index,
            last_time: self.log_time,
            ..ModelSession::default()
        };
        self.sessions.insert(index, session);
        if self.sessions.len() > options.max_sessions as usize {
            let oldest = self
                .sessions
                .iter()
                .min_by_key(|(_, session)| session.last_index);
            let oldest = *oldest.unwrap().0;
            self.sessions.remove(&oldest);
        }
        Outcome::SessionOpened(SessionId::new(index))
    }

    fn append(&mut self, index: u64, id: u64, request: u64, seen: u64, text: &str) -> Outcome {
        let Some(session) = self.sessions.get_mut(&id) else {
            return EXPIRED;
        };
        session.last_index = index;
        session.last_time = self.log_time;
        session.seen_upto = session.seen_upto.max(seen);
        if request <= session.seen_upto {
            Outcome::Refused(Refusal::StaleDuplicate)
        } else if request - session.seen_upto > MAX_REPLIES_PER_SESSION {
            Outcome::Refused(Refusal::TooFarAhead)
        } else if session.ran.contains(&request) {
            REPEATED
        } else {
            session.ran.push(request);
            self.value.push_str(text);
            RAN
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// The nth session opened so far, or one that never was.
    Append {
        nth: usize,
        request: u64,
        seen: u64,
    },
}

proptest! {
    /// Requests repeated and reordered at will, in sessions that expire and make room for each other.
    #[test]
    fn sessions_do_what_the_model_does(steps in prop::collection::vec(
        (
            prop_oneof![
                1 => Just(Step::Open),
                8 => (
                    0..5_usize,
                    prop_oneof![20 => 0..12_u64, 1 => 1020..1040_u64, 1 => any::<u64>()],
                    prop_oneof![20 => 0..3_u64, 4 => 0..12_u64, 1 => 0..20_u64],
                ).prop_map(|(nth, request, seen)| Step::Append { nth, request, seen }),
            ],
            0..30_i64,
        ),
        0..120,
    )) {
        let options = StateMachineOptions {
            max_value_bytes: 1 << 20,
            ..tight_options()
        };
        let mut store = new_store(options.clone());
        let mut model = Model::default();
        let mut opened = Vec::new();
        let mut millis = 0_i64;
        for (step, passed) in steps {
            millis = (millis + passed - 3).max(0); // now and then it goes back
            let millis = u64::try_from(millis).unwrap();
            let index = store.last_applied().index + 1;
            model.pass_time(millis, &options);
            match step {
                Step::Open => {
                    let expected = model.open(index, &options);
                    prop_assert_eq!(store.apply_next(&open_at(millis)), expected);
                    opened.insert(0, index);
                }
                Step::Append { nth, request, seen } => {
                    let id = opened.get(nth).copied().unwrap_or(0);
                    let text = format!("{id}.{request};");
                    let command = at(millis, session(id, request, seen), append("k", &text));
                    let expected = model.append(index, id, request, seen, &text);
                    prop_assert_eq!(store.apply_next(&command), expected);
                }
            }
            prop_assert_eq!(store.session_count(), model.sessions.len());
        }
        prop_assert_eq!(store.text("k"), model.value);
    }

    /// Two nodes at the same index are the same, also if one came there by a snapshot.
    #[test]
    fn a_restored_node_goes_on_like_the_others(
        commands in prop::collection::vec(any_command(), 0..100),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(commands.len() + 1);
        let mut whole = new_store(tight_options());
        let mut restored = new_store(tight_options());
        for (applied, command) in commands.iter().enumerate() {
            if applied == cut {
                let bytes = restored.snapshot_bytes();
                restored =
                    StateMachine::restore(MemoryEngine::new(), tight_options(), &bytes[..]).unwrap();
            }
            prop_assert_eq!(whole.apply_next(command), restored.apply_next(command));
            prop_assert_eq!(whole.digest(), restored.digest());
        }
        prop_assert_eq!(whole.snapshot_bytes(), restored.snapshot_bytes());
    }
}

// Callers of the original. All its processes have one ClientId: the original's defect 7.

const CLIENT: &str = "171463691516816927778469308861804289383";

fn ask(store: &mut StateMachine<MemoryEngine>, request: u64, op: Op) -> Outcome {
    store.apply_next(&at(0, legacy(CLIENT, request), op))
}

#[test]
fn legacy_the_next_request_runs_also_after_gaps() {
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
fn legacy_the_last_request_again_is_a_duplicate_with_the_same_reply() {
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
fn legacy_an_earlier_request_is_a_duplicate() {
    let mut store = new_store(StateMachineOptions::default());
    for request in [1, 2, 3] {
        ask(&mut store, request, append("k", "x"));
    }
    assert_eq!(ask(&mut store, 2, append("k", "x")), REPEATED);
    assert_eq!(store.text("k"), "xxx");
}

#[test]
fn legacy_request_1_past_the_first_begins_a_new_process() {
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
fn legacy_request_1_with_other_content_begins_a_new_process() {
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
fn legacy_an_unknown_client_is_taken_at_any_number() {
    let mut store = new_store(StateMachineOptions::default());
    assert_eq!(ask(&mut store, 17, append("k", "x")), RAN);
    assert_eq!(ask(&mut store, 17, append("k", "x")), REPEATED);
    assert_eq!(store.legacy_client_count(), 1);
}

#[test]
fn legacy_a_process_that_begins_with_a_get_has_its_request_2_run() {
    let mut store = new_store(StateMachineOptions::default());
    let client = Bytes::from(CLIENT);
    let begin = Command::begin_legacy(LogTime::ZERO, client.clone());
    assert!(!store.needs_begin_legacy(&client), "unknown");
    ask(&mut store, 1, append("k", "1"));
    assert!(
        !store.needs_begin_legacy(&client),
        "its request 2 is new anyway"
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
fn legacy_clients_expire_and_make_room() {
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
fn legacy_client_ids_are_bounded() {
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
