use std::io::{Read as _, Write as _};

use rpc::Code;

use super::*;
use crate::core::{LogId, LogIndex, Membership, NodeId};
use crate::storage::sim_disk::{Crash, SimDisk};
use crate::storage::{Identity, Persister, PersisterOptions, SnapshotStore};

const CHUNK_BYTES: usize = 100;
/// A file of eleven chunks, the last one short.
const BODY_BYTES: usize = 1_000;

const TERM: Term = Term::new(3);

fn snapshot() -> LogId {
    LogId::new(Term::new(2), LogIndex::new(50))
}

fn open(disk: &SimDisk, node: u64) -> Persister {
    let identity = Identity {
        node: NodeId::new(node),
        cluster: 7,
    };
    let options = PersisterOptions {
        segment_bytes: 4096,
        ..PersisterOptions::default()
    };
    Persister::open(disk.clone(), identity, options).unwrap().0
}

fn body() -> Vec<u8> {
    (0..=250).cycle().take(BODY_BYTES).collect()
}

/// A leader's directory, with the snapshot.
fn leader() -> SimDisk {
    let disk = SimDisk::new();
    let members = Membership::of_voters([(NodeId::new(1), "10.0.0.1:1".to_owned())]).unwrap();
    let store = open(&disk, 1).snapshots();
    let mut writer = store.create(snapshot(), &members).unwrap();
    writer.write_all(&body()).unwrap();
    writer.finish().unwrap();
    disk
}

/// The other end of the call.
struct Follower {
    disk: SimDisk,
    persister: Option<Persister>,
    /// Bytes of all chunks that reached it.
    received_bytes: usize,
    /// Chunks that reached it.
    chunks: u32,
}

impl Follower {
    fn new() -> Self {
        let disk = SimDisk::new();
        let persister = Some(open(&disk, 2));
        Self {
            disk,
            persister,
            received_bytes: 0,
            chunks: 0,
        }
    }

    fn store(&self) -> SnapshotStore {
        let persister = self.persister.as_ref().expect("it runs");
        persister.snapshots()
    }

    fn restart(&mut self, crash: Crash) {
        self.persister = None;
        self.disk.crash(crash);
        self.persister = Some(open(&self.disk, 2));
    }

    /// What its service, core and snapshot thread make of a chunk between them.
    fn answer(&mut self, message: Message) -> Result<Message, RpcError> {
        let Message::InstallSnapshot {
            last_included,
            offset,
            data,
            done,
            ..
        } = message
        else {
            panic!("a transfer sends chunks");
        };
        self.received_bytes += data.len();
        self.chunks += 1;
        let outcome = self
            .store()
            .receive(last_included, offset, &data, done)
            .map_err(|error| RpcError::new(Code::ResourceExhausted, error.to_string()))?;
        Ok(Message::InstallSnapshotReply {
            term: TERM,
            last_included,
            next_offset: outcome.next_offset,
            installed: outcome.complete,
        })
    }

    fn assert_installed(&self) {
        let mut found = Vec::new();
        let mut reader = self.store().open(snapshot()).unwrap();
        reader.read_to_end(&mut found).unwrap();
        assert!(found == body());
    }
}

/// Sends the snapshot as that leader; `call` is the link.
fn send(
    leader: &SimDisk,
    patience: Duration,
    call: impl FnMut(Message) -> Result<Message, RpcError>,
) -> Result<bool, String> {
    let disk = leader.fork();
    let reader = open(&disk, 1).snapshots().open(snapshot()).unwrap();
    let transfer = Transfer {
        reader: &reader,
        term: TERM,
        chunk_bytes: CHUNK_BYTES,
        bytes_per_second: u64::MAX,
        retry_pause: (Duration::ZERO, Duration::ZERO),
        patience,
    };
    transfer.run(&AtomicBool::new(false), call)
}

const PATIENT: Duration = Duration::from_mins(1);

fn file_bytes(leader: &SimDisk) -> usize {
    let reader = open(&leader.fork(), 1).snapshots().open(snapshot());
    usize::try_from(reader.unwrap().len()).unwrap()
}

fn cut() -> RpcError {
    RpcError::new(Code::Unavailable, "the link is cut")
}

#[test]
fn each_byte_is_sent_once() {
    let leader = leader();
    let mut follower = Follower::new();
    let sent = send(&leader, PATIENT, |message| follower.answer(message));
    assert_eq!(sent, Ok(true));
    assert_eq!(follower.received_bytes, file_bytes(&leader));
    assert_eq!(follower.chunks, 12, "eleven, and the question");
    follower.assert_installed();
}

/// Faults M6, at each chunk: the follower's process restarts, before or after it stored the chunk.
/// The sender goes on from what the follower has.
#[test]
fn a_follower_that_restarts_at_any_chunk_is_sent_the_rest() {
    let leader = leader();
    for at in 0..12 {
        for is_stored in [false, true] {
            let mut follower = Follower::new();
            let mut calls = 0;
            let sent = send(&leader, PATIENT, |message| {
                calls += 1;
                if calls != at + 1 {
                    return follower.answer(message);
                }
                if is_stored {
                    follower.answer(message)?;
                }
                follower.restart(Crash::Kill);
                Err(cut())
            });
            let context = format!("chunk {at}, stored: {is_stored}");
            assert_eq!(sent, Ok(true), "{context}");
            follower.assert_installed();
            // A chunk whose answer was lost is sent again.
            let resent = follower.received_bytes - file_bytes(&leader);
            assert!(
                resent <= CHUNK_BYTES,
                "{context}: {resent} bytes sent twice"
            );
        }
    }
}

/// The same for a sender that is given up, or restarts, at each chunk: the next one goes on.
#[test]
fn a_sender_that_restarts_at_any_chunk_sends_the_rest() {
    let leader = leader();
    for at in 0..12 {
        for is_stored in [false, true] {
            let mut follower = Follower::new();
            let mut calls = 0;
            let given_up = send(&leader, Duration::ZERO, |message| {
                calls += 1;
                if calls != at + 1 {
                    return follower.answer(message);
                }
                if is_stored {
                    follower.answer(message)?;
                }
                Err(cut())
            });
            let why = given_up.expect_err("it has no patience");
            assert!(why.contains("the link is cut"), "{why}");

            let sent = send(&leader, PATIENT, |message| follower.answer(message));
            assert_eq!(sent, Ok(true));
            follower.assert_installed();
            let (received, file) = (follower.received_bytes, file_bytes(&leader));
            assert_eq!(received, file, "chunk {at}, stored: {is_stored}");
        }
    }
}

/// Power fails at the follower at each chunk, with any part of what was not synced there. What was
/// kept may be wrong: then the whole file is found damaged, and sent once more.
#[test]
fn a_follower_that_loses_power_at_any_chunk_gets_it_in_the_end() {
    let leader = leader();
    for at in 0..12 {
        for seed in 0..20 {
            let crash = match seed {
                0 => Crash::Lost,
                1 => Crash::Kept,
                _ => Crash::Random { seed },
            };
            let mut follower = Follower::new();
            let mut calls = 0;
            let sent = send(&leader, PATIENT, |message| {
                calls += 1;
                let answer = follower.answer(message);
                if calls == at + 1 {
                    follower.restart(crash);
                    return Err(cut());
                }
                answer
            });
            assert_eq!(sent, Ok(true), "chunk {at}, {crash:?}");
            follower.assert_installed();
            // What was lost, a chunk in the wrong place, the rest, and all of it.
            let most = (at + 1) * CHUNK_BYTES + 2 * file_bytes(&leader);
            let sent_bytes = follower.received_bytes;
            assert!(sent_bytes <= most, "chunk {at}, {crash:?}: {sent_bytes}");
        }
    }
}

/// What is left of an earlier transfer may even be longer than the snapshot.
#[test]
fn a_follower_that_has_too_much_begins_anew() {
    let leader = leader();
    let mut follower = Follower::new();
    follower
        .store()
        .receive(snapshot(), 0, &[1; BODY_BYTES * 2], false)
        .unwrap();
    follower.restart(Crash::Kill);
    let sent = send(&leader, PATIENT, |message| follower.answer(message));
    assert_eq!(sent, Ok(true));
    follower.assert_installed();
}

/// A disk that is full again and again ends the transfer, with a text that says what was seen.
#[test]
fn a_follower_that_keeps_losing_what_it_had_is_given_up() {
    let leader = leader();
    let mut follower = Follower::new();
    let disk = follower.disk.clone();
    disk.set_capacity(Some(disk.used_bytes() + 5 * CHUNK_BYTES as u64));
    let why = send(&leader, PATIENT, |message| follower.answer(message)).unwrap_err();
    assert!(why.contains("lost what it had of it 4 times"), "{why}");
    assert!(why.contains("see to its disk"), "{why}");
    let parts = disk.files();
    let part = parts
        .keys()
        .find(|path| path.to_string_lossy().ends_with(".part"));
    assert_eq!(part, None, "the log may need the space");

    disk.set_capacity(None);
    let sent = send(&leader, PATIENT, |message| follower.answer(message));
    assert_eq!(sent, Ok(true));
    follower.assert_installed();
}

#[test]
fn a_follower_that_takes_nothing_is_given_up() {
    let why = send(&leader(), PATIENT, |_| {
        Ok(Message::InstallSnapshotReply {
            term: TERM,
            last_included: snapshot(),
            next_offset: 300,
            installed: false,
        })
    });
    let why = why.unwrap_err();
    assert!(why.contains("took nothing of 5 chunks in a row"), "{why}");
    assert!(why.contains("it has 300 of"), "{why}");
}

#[test]
fn a_newer_term_or_a_stop_ends_it() {
    let leader = leader();
    let deposed = send(&leader, PATIENT, |_| {
        Ok(Message::InstallSnapshotReply {
            term: Term::new(4),
            last_included: snapshot(),
            next_offset: 0,
            installed: false,
        })
    });
    assert_eq!(deposed, Ok(false));

    let reader = open(&leader, 1).snapshots().open(snapshot()).unwrap();
    let stop = AtomicBool::new(false);
    let mut calls = 0;
    let transfer = Transfer {
        reader: &reader,
        term: TERM,
        chunk_bytes: CHUNK_BYTES,
        bytes_per_second: u64::MAX,
        retry_pause: (Duration::ZERO, Duration::ZERO),
        patience: PATIENT,
    };
    let stopped = transfer.run(&stop, |_| {
        calls += 1;
        stop.store(true, Ordering::Relaxed);
        Err(cut())
    });
    assert_eq!((stopped, calls), (Ok(false), 1));
}

/// A lower bound, which no slow machine breaks.
#[test]
fn a_transfer_keeps_to_its_rate() {
    let leader = leader();
    let mut follower = Follower::new();
    let reader = open(&leader, 1).snapshots().open(snapshot()).unwrap();
    let transfer = Transfer {
        reader: &reader,
        term: TERM,
        chunk_bytes: CHUNK_BYTES,
        bytes_per_second: 20_000,
        retry_pause: (Duration::ZERO, Duration::ZERO),
        patience: PATIENT,
    };
    let started = Instant::now();
    let sent = transfer.run(&AtomicBool::new(false), |message| follower.answer(message));
    assert_eq!(sent, Ok(true));
    // After the last chunk there is nothing to wait for.
    assert!(started.elapsed() >= Duration::from_millis(BODY_BYTES as u64 * 1000 / 20_000));
}
