//! Snapshots: what they carry, and what broken ones do.

use std::io::{self, Read, Write};

use bytes::Bytes;
use proptest::prelude::*;

use crate::command::{LogTime, Op, Writer};
use crate::engine::{Engine, MemoryEngine};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::snapshot::{RestoreError, SnapshotError};
use crate::state_machine::{StateMachine, StateMachineOptions};
use crate::test_kit::{any_command, append, at, legacy, new_store, put, session, tight_options};

type Store = StateMachine<MemoryEngine>;

fn restore(bytes: &[u8]) -> Result<Store, RestoreError> {
    StateMachine::restore(MemoryEngine::new(), tight_options(), bytes)
}

/// A little of everything: sessions with a gap, a reply of each kind, legacy clients with and without a
/// write, odd pairs.
fn store_with_everything() -> Store {
    let mut store = new_store(tight_options());
    store.apply_empty(1, 4).unwrap();
    for command in [
        at(10, Writer::None, Op::OpenSession), // session 2
        at(20, Writer::None, Op::OpenSession), // session 3
        at(30, session(2, 2, 0), put("k 1", "v\n1")),
        at(30, session(2, 4, 1), append("k 1", &"x".repeat(40))), // too large
        at(31, legacy("client", 9), put("", "")),
        at(
            32,
            Writer::None,
            Op::BeginLegacy {
                client: Bytes::from("reader"),
            },
        ),
        at(33, Writer::None, put("\0", "nul")),
        at(5, session(3, 1, 0), append("gone", "x")),
    ] {
        store.apply_next(&command);
    }
    store
}

/// Failure 96, and the original's defects 2 and 5: keys come back with their values, whatever
/// bytes these are.
#[test]
fn keys_and_values_come_back_whatever_their_bytes() {
    let mut store = new_store(StateMachineOptions::default());
    let odd: [Bytes; 8] = [
        Bytes::new(),
        Bytes::from("a b c"),
        Bytes::from("22 serialization::archive 18 0 0"),
        Bytes::from("\n\r\t|"),
        Bytes::from_static(b"\0"),
        Bytes::from_static(b"\0\0\xff\xfe"),
        Bytes::from(vec![b' '; 1 << 20]),
        Bytes::from((0..=255).cycle().take(3 << 20).collect::<Vec<u8>>()),
    ];
    for (key, value) in odd.iter().zip(odd.iter().rev()) {
        let (key, value) = (key.clone(), value.clone());
        store.apply_next(&at(0, Writer::None, Op::Put { key, value }));
    }

    let restored = restore(&store.snapshot_bytes()).unwrap();
    for (key, value) in odd.iter().zip(odd.iter().rev()) {
        assert!(
            restored.get(key).unwrap().as_ref() == Some(value),
            "value of {} bytes",
            value.len()
        );
    }
    assert_eq!(restored.key_count(), odd.len());
    assert_eq!(restored.data_bytes(), store.data_bytes());
}

/// Failure 81: a restore replaces; it does not merge.
#[test]
fn keys_that_the_snapshot_lacks_do_not_come_back() {
    let bytes = store_with_everything().snapshot_bytes();
    let mut engine = MemoryEngine::new();
    engine
        .put(Bytes::from("deleted since"), Bytes::from("v"))
        .unwrap();
    engine
        .put(Bytes::from("k 1"), Bytes::from("older"))
        .unwrap();

    let restored = StateMachine::restore(engine, tight_options(), &bytes[..]).unwrap();
    assert_eq!(restored.get(b"deleted since").unwrap(), None);
    assert_eq!(restored.text("k 1"), "v\n1");
    assert_eq!(restored.key_count(), 4);
}

/// Failures 82, 122: a retry after the restore finds the first reply.
#[test]
fn sessions_and_legacy_clients_are_inside() {
    let mut store = store_with_everything();
    let mut restored = restore(&store.snapshot_bytes()).unwrap();
    assert_eq!(restored.last_applied(), store.last_applied());
    assert_eq!(restored.log_time(), LogTime::from_millis(33));
    assert_eq!(restored.digest(), store.digest());
    assert_eq!(restored.session_count(), 2);
    assert_eq!(restored.legacy_client_count(), 2);

    let repeated = |reply| Outcome::Repeated(reply);
    let stale = Outcome::Refused(Refusal::StaleDuplicate);
    for (writer, outcome) in [
        (session(2, 2, 0), repeated(Reply::Done)),
        (session(2, 4, 0), repeated(Reply::ValueTooLarge)),
        (session(2, 1, 0), stale),
        (session(2, 3, 0), Outcome::Applied(Reply::Done)),
        (session(3, 1, 0), repeated(Reply::Done)),
        (legacy("client", 9), repeated(Reply::Done)),
        (legacy("reader", 2), Outcome::Applied(Reply::Done)),
    ] {
        let command = at(33, writer, put("again", "v"));
        assert_eq!(restored.apply_next(&command), outcome, "{command:?}");
    }
}

/// Failure 83: one consistent point, though writes go on.
#[test]
fn a_snapshot_shows_the_moment_it_began() {
    let mut store = store_with_everything();
    let bytes = store.snapshot_bytes();
    let at_beginning = store.last_applied();

    let snapshot = store.begin_snapshot().unwrap();
    assert!(store.begin_snapshot().is_none(), "one at a time");
    store.apply_next(&at(34, session(2, 3, 0), put("k 1", "later")));
    store.apply_next(&at(500, Writer::None, put("new", "later")));
    assert_eq!(store.session_count(), 0, "expired meanwhile");

    assert_eq!(snapshot.last_included(), at_beginning);
    let mut written = Vec::new();
    snapshot.write_to(&mut written).unwrap();
    assert_eq!(written, bytes);
    assert!(store.begin_snapshot().is_some(), "the next one");
}

#[test]
fn an_empty_state_goes_there_and_back() {
    let bytes = new_store(tight_options()).snapshot_bytes();
    let mut restored = restore(&bytes).unwrap();
    assert_eq!(restored.snapshot_bytes(), bytes);
    assert_eq!(restored.apply_empty(1, 1).unwrap(), Outcome::Nothing);
}

/// The format, byte by byte: a change of it needs another version.
#[test]
fn the_bytes_are_those_of_version_1() {
    let mut store = new_store(tight_options());
    store.apply_next(&at(7, Writer::None, Op::OpenSession));
    store.apply_next(&at(8, session(1, 2, 0), put("k", "vv")));
    store.apply_next(&at(9, legacy("c", 3), put("k", "vv")));
    let mut expected = b"KVSTATE\x01".to_vec();
    for number in [3_u64, 0, 9] {
        expected.extend(number.to_le_bytes()); // index, term, log time
    }
    expected.extend(store.digest().get().to_le_bytes());
    expected.extend(1_u32.to_le_bytes()); // sessions
    for number in [1_u64, 2, 8, 0] {
        expected.extend(number.to_le_bytes()); // id, last index and time, seen up to
    }
    expected.extend([2, 0, 0, 1]); // two replies: none, done
    expected.extend([1, 0, 0, 0, 1, 0, b'c']); // one legacy client, "c"
    for number in [3_u64, 9, 3] {
        expected.extend(number.to_le_bytes()); // last index and time, last request
    }
    expected.push(1); // its reply
    let operation = [&[0][..], &1_u64.to_le_bytes(), b"kvv"].concat();
    expected.extend(crc32c::crc32c(&operation).to_le_bytes());
    expected.extend(1_u64.to_le_bytes()); // pairs
    expected.extend(b"\x01\0\0\0k\x02\0\0\0vv");
    expected.extend(b"END");
    assert_eq!(store.snapshot_bytes(), expected);
}

proptest! {
    /// Failure 51: two nodes at the same index are the same, also if one came there by a snapshot.
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

// Broken input: an error, never a panic.

#[test]
fn a_snapshot_cut_anywhere_is_refused() {
    let bytes = store_with_everything().snapshot_bytes();
    for len in 0..bytes.len() {
        let cut = restore(&bytes[..len]).map(|store| store.key_count());
        assert!(
            matches!(cut, Err(RestoreError::Truncated)),
            "{len}: {cut:?}"
        );
    }
    let longer = restore(&[&bytes[..], b"x"].concat()).map(|store| store.key_count());
    assert!(
        matches!(longer, Err(RestoreError::Malformed(_))),
        "{longer:?}"
    );
}

/// A flipped value is not noticed here (the file's checksum is there for it); a flipped length or order
/// is. Whatever is accepted must be a state that can go on.
#[test]
fn a_snapshot_with_any_byte_changed_never_panics() {
    let bytes = store_with_everything().snapshot_bytes();
    let mut refused = 0;
    for place in 0..bytes.len() {
        for flip in [0x01, 0x02, 0x80, 0xff] {
            let mut broken = bytes.clone();
            broken[place] ^= flip;
            match restore(&broken) {
                Ok(mut store) => {
                    if store.last_applied().index < u64::MAX - 3 {
                        store.apply_next(&at(40, session(2, 5, 2), append("k 1", "x")));
                        store.apply_next(&at(40, legacy("client", 10), append("k 1", "x")));
                        store.apply_next(&at(u64::MAX, Writer::None, Op::OpenSession));
                    }
                    assert_eq!(
                        restore(&store.snapshot_bytes()).unwrap().digest(),
                        store.digest()
                    );
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50, "only {refused} were refused");
}

#[test]
fn each_broken_rule_of_the_format_is_named() {
    let bytes = store_with_everything().snapshot_bytes();
    let refusal = |place: usize, patch: &[u8]| {
        let mut broken = bytes.clone();
        broken[place..place + patch.len()].copy_from_slice(patch);
        restore(&broken).map(|_| ()).unwrap_err().to_string()
    };
    let head = 8 + 3 * 8 + 4;
    assert_eq!(refusal(0, b"x"), "not a snapshot of the store");
    assert_eq!(
        refusal(7, b"\x02"),
        "snapshot of format version 2; this node reads version 1"
    );
    let first_session = head + 4;
    assert_eq!(
        refusal(first_session, &[0xff; 8]),
        "malformed snapshot: a session used before it was opened"
    );
    assert_eq!(
        refusal(first_session + 8, &[9, 0, 0, 0, 0, 0, 0, 0]),
        "malformed snapshot: sessions out of order"
    );
    let replies = first_session + 4 * 8;
    assert_eq!(
        refusal(replies, &1025_u16.to_le_bytes()),
        "malformed snapshot: more replies than a session keeps"
    );
    assert_eq!(
        refusal(replies + 2, &[7]),
        "malformed snapshot: a reply of an unknown kind"
    );
    let last_reply = replies + 2 + 2; // requests 2 and 3 of session 2, then 4
    assert_eq!(
        refusal(last_reply, &[0]),
        "malformed snapshot: a session's last reply is none"
    );
    let end = bytes.len() - 3;
    assert_eq!(
        refusal(end, b"x"),
        "malformed snapshot: no end mark after the last pair"
    );
}

#[test]
fn keys_out_of_order_are_refused() {
    let mut store = new_store(tight_options());
    store.apply_next(&at(0, Writer::None, put("a", "1")));
    store.apply_next(&at(0, Writer::None, put("b", "2")));
    let mut bytes = store.snapshot_bytes();
    let second_key = bytes.len() - 3 - 1 - 4 - 1;
    for key in *b"a@" {
        bytes[second_key] = key;
        let refused = restore(&bytes).map(|_| ()).unwrap_err();
        assert_eq!(refused.to_string(), "malformed snapshot: keys out of order");
    }
}

/// A length of 4 GiB in front of a few bytes reserves no 4 GiB.
#[test]
fn a_claimed_length_reserves_nothing() {
    let mut store = new_store(tight_options());
    store.apply_next(&at(0, Writer::None, put("k", "v")));
    let bytes = store.snapshot_bytes();
    let key_bytes = bytes.len() - 3 - 1 - 4 - 1 - 4;
    let mut broken = bytes.clone();
    broken[key_bytes..key_bytes + 4].fill(0xff);
    assert!(matches!(restore(&broken), Err(RestoreError::Truncated)));
    let mut broken = bytes;
    broken[key_bytes - 8..key_bytes].fill(0xff); // as many pairs as can be said
    assert!(restore(&broken).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_after_the_magic_never_panic(
        tail in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..400),
    ) {
        let bytes = [b"KVSTATE\x01", &tail[..]].concat();
        let _ = restore(&bytes);
        let _ = restore(&tail);
    }
}

/// Takes or gives a few bytes, then fails.
struct Failing(usize);

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Failing {
    fn read(&mut self, _bytes: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }
}

#[test]
fn a_failing_file_is_told_from_a_broken_one() {
    let mut store = store_with_everything();
    let all = store.snapshot_bytes().len();
    for room in [0, 10, all - 1] {
        let snapshot = store.begin_snapshot().unwrap();
        let failed = snapshot.write_to(Failing(room)).unwrap_err();
        assert!(matches!(failed, SnapshotError::Write(_)), "{failed}");
    }
    let failed = StateMachine::restore(MemoryEngine::new(), tight_options(), Failing(0));
    assert!(matches!(failed.map(|_| ()), Err(RestoreError::Read(_))));
}
