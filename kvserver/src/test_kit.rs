//! What several of this crate's tests need: entries to apply, random ones too.

use bytes::Bytes;
use proptest::prelude::*;

use crate::codec;
use crate::command::{Command, LogTime, Op, RequestId, SessionId, Writer};
use crate::engine::{Engine, MemoryEngine};
use crate::outcome::{Outcome, Reply};
use crate::state_machine::{StateMachine, StateMachineOptions};

/// A seeded generator (`SplitMix64`): the same numbers from the same seed, everywhere.
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> SplitMix {
        SplitMix(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(crate) const RAN: Outcome = Outcome::Applied(Reply::Done);
pub(crate) const REPEATED: Outcome = Outcome::Repeated(Reply::Done);

/// Small bounds, so that tests reach them.
pub(crate) fn tight_options() -> StateMachineOptions {
    StateMachineOptions {
        session_ttl: std::time::Duration::from_millis(100),
        max_sessions: 3,
        max_value_bytes: 40,
    }
}

pub(crate) fn new_store(options: StateMachineOptions) -> StateMachine<MemoryEngine> {
    StateMachine::new(MemoryEngine::new(), options).unwrap()
}

impl<E: Engine> StateMachine<E> {
    /// Applies a command as the next entry, of the same term as the last.
    pub(crate) fn apply_next(&mut self, command: &Command) -> Outcome {
        let last = self.last_applied();
        let entry = codec::encode(command).unwrap();
        self.apply(last.index + 1, last.term, &entry).unwrap()
    }

    /// The whole state, as a snapshot's bytes.
    pub(crate) fn snapshot_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let snapshot = self.begin_snapshot().unwrap();
        snapshot.write_to(&mut bytes).unwrap();
        bytes
    }

    /// A key's value as text; "" if it is absent.
    pub(crate) fn text(&self, key: &str) -> String {
        let value = self.get(key.as_bytes()).unwrap().unwrap_or_default();
        String::from_utf8(value.to_vec()).unwrap()
    }
}

pub(crate) fn at(millis: u64, writer: Writer, op: Op) -> Command {
    Command {
        log_time: LogTime::from_millis(millis),
        writer,
        op,
    }
}

pub(crate) fn open_at(millis: u64) -> Command {
    Command::open_session(LogTime::from_millis(millis))
}

pub(crate) fn session(id: u64, request: u64, replies_seen_upto: u64) -> Writer {
    Writer::Session {
        id: SessionId::new(id),
        request: RequestId::new(request),
        replies_seen_upto: RequestId::new(replies_seen_upto),
    }
}

pub(crate) fn legacy(client: &str, request: u64) -> Writer {
    Writer::Legacy {
        client: Bytes::copy_from_slice(client.as_bytes()),
        request: RequestId::new(request),
    }
}

pub(crate) fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

pub(crate) fn append(key: &str, value: &str) -> Op {
    Op::Append {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// Any command at all. Numbers are small enough to meet each other, most of the time.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let number = || prop_oneof![9 => 0..8_u64, 1 => any::<u64>()];
    let bytes = || prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
    let name = || prop::sample::select(vec!["", "a", "b\0", "c d", "e"]).prop_map(Bytes::from);
    let op = prop_oneof![
        2 => Just(Op::OpenSession),
        1 => name().prop_map(|client| Op::BeginLegacy { client }),
        4 => (name(), bytes()).prop_map(|(key, value)| Op::Put { key, value }),
        4 => (name(), bytes()).prop_map(|(key, value)| Op::Append { key, value }),
    ];
    let writer = prop_oneof![
        1 => Just(Writer::None),
        4 => (0..40_u64, number(), 0..4_u64)
            .prop_map(|(id, request, seen)| session(id, request, seen)),
        3 => (name(), number()).prop_map(|(client, request)| Writer::Legacy {
            client,
            request: RequestId::new(request),
        }),
    ];
    (0..400_u64, writer, op).prop_map(|(millis, writer, op)| at(millis, writer, op))
}
