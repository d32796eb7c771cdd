//! A follower that takes the first chunk of a snapshot and never answers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use kvserver::{KvServer, KvServerOptions};
use proto::kv::{KvServerRpcStub, PutAppendArgs};
use proto::raft::{
    AppendEntriesArgs, AppendEntriesReply, InstallSnapshotArgs, InstallSnapshotReply, RaftRpc,
    RaftRpcService, ReadIndexArgs, ReadIndexReply, RequestVoteArgs, RequestVoteReply,
    TimeoutNowArgs, TimeoutNowReply,
};
use raft::{NodeId, NodeOptions};
use rpc::{
    Done, EventLoops, ProviderHandle, ProviderOptions, RpcChannel, RpcContext, RpcController,
    RpcProvider,
};

use crate::common::{HANG_GUARD, eventually};

const SNAPSHOT_LOG_BYTES: usize = 20_000;

/// Less than the minute that a chunk may take (`CHUNK_TIMEOUT`): who waits for that one is found out.
const NOT_WAITING_FOR_A_CHUNK: Duration = Duration::from_secs(30);

/// Another node, as far as a leader can tell.
struct Fake {
    /// Says that it has whatever it is sent. Otherwise: that it has nothing, ever.
    takes_entries: bool,
    /// Where the calls go that bring chunks, unanswered.
    chunks: Sender<Done<InstallSnapshotReply>>,
}

impl Fake {
    fn serve(self) -> ProviderHandle {
        let mut provider = RpcProvider::new(ProviderOptions::default());
        provider
            .notify_service(RaftRpcService::new(Arc::new(self)))
            .unwrap();
        provider.start("127.0.0.1:0").unwrap()
    }
}

impl RaftRpc for Fake {
    fn append_entries(
        &self,
        _: RpcContext,
        args: AppendEntriesArgs,
        done: Done<AppendEntriesReply>,
    ) {
        let last = args.prev_log_index + args.entries.len() as u64;
        done.run(AppendEntriesReply {
            term: args.term,
            success: true,
            match_index: if self.takes_entries { last } else { 0 },
            round: args.round,
            ..AppendEntriesReply::default()
        });
    }

    fn request_vote(&self, _: RpcContext, args: RequestVoteArgs, done: Done<RequestVoteReply>) {
        done.run(RequestVoteReply {
            term: args.term,
            vote_granted: true,
            pre_vote: args.pre_vote,
        });
    }

    fn install_snapshot(
        &self,
        _: RpcContext,
        _: InstallSnapshotArgs,
        done: Done<InstallSnapshotReply>,
    ) {
        let _ = self.chunks.send(done);
    }

    fn timeout_now(&self, _: RpcContext, args: TimeoutNowArgs, done: Done<TimeoutNowReply>) {
        done.run(TimeoutNowReply { term: args.term });
    }

    fn read_index(&self, _: RpcContext, args: ReadIndexArgs, done: Done<ReadIndexReply>) {
        done.run(ReadIndexReply {
            term: args.term,
            number: args.number,
            index: None,
        });
    }
}

/// A leader of three; the other two are fakes, of which one never takes anything.
fn leader_of_fakes(
    dir: &tempfile::TempDir,
    retained_log_bytes: usize,
) -> (
    KvServer,
    [ProviderHandle; 2],
    Receiver<Done<InstallSnapshotReply>>,
) {
    let (chunks, arrived) = channel();
    let fakes = [true, false].map(|takes_entries| {
        let chunks = chunks.clone();
        Fake {
            takes_entries,
            chunks,
        }
        .serve()
    });
    let own = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let addresses = vec![own, fakes[0].local_addr(), fakes[1].local_addr()];
    let loops = EventLoops::start(1, "test-node").unwrap();
    let node = NodeOptions {
        snapshot_log_bytes: SNAPSHOT_LOG_BYTES,
        retained_log_bytes,
        ..NodeOptions::new(
            NodeId::new(0),
            &addresses,
            7,
            dir.path().join("node0"),
            loops,
        )
    };
    let server = KvServer::start(KvServerOptions::new(node).unwrap()).unwrap();
    eventually("a leader", || server.status().serving.then_some(()));
    (server, fakes, arrived)
}

/// A client that overwrites one key.
struct Writer {
    stub: KvServerRpcStub,
    writes: i32,
}

impl Writer {
    fn new(server: &KvServer) -> Self {
        let stub = KvServerRpcStub::new(RpcChannel::new(server.local_addr()));
        Self { stub, writes: 0 }
    }

    fn write(&mut self, value_bytes: usize) {
        self.writes += 1;
        let args = PutAppendArgs {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![7; value_bytes]),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from_static(b"c"),
            request_id: self.writes,
            ..PutAppendArgs::default()
        };
        let mut controller = RpcController::with_timeout(HANG_GUARD);
        let reply = self.stub.put_append(&mut controller, &args);
        assert_eq!(reply.unwrap().err, "OK");
    }
}

/// Failure 91: the leader goes on taking snapshots and dropping its log, and ends when it is told to.
#[test]
fn a_receiver_that_stands_still_holds_up_neither_snapshots_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _fakes, arrived) = leader_of_fakes(&dir, 0);
    let mut writer = Writer::new(&server);
    let mut write_until_snapshot_after = |index: u64| {
        eventually("a snapshot", || {
            writer.write(SNAPSHOT_LOG_BYTES / 4);
            let snapshot = server.status().snapshot.index.get();
            (snapshot > index).then_some(snapshot)
        })
    };
    let first = write_until_snapshot_after(0);
    let unanswered = arrived.recv_timeout(HANG_GUARD).expect("a chunk");

    let second = write_until_snapshot_after(first);
    write_until_snapshot_after(second);
    eventually("a log within its bound", || {
        (server.status().log_bytes <= SNAPSHOT_LOG_BYTES).then_some(())
    });

    let (ended, end) = channel();
    thread::spawn(move || ended.send(server.shutdown()));
    end.recv_timeout(NOT_WAITING_FOR_A_CHUNK)
        .expect("it does not wait for the receiver")
        .unwrap();
    drop(unanswered);
}

/// What the leader keeps for it is no reason for another snapshot.
#[test]
fn a_receiver_that_stands_still_causes_no_more_snapshots_than_the_writes_do() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _fakes, arrived) = leader_of_fakes(&dir, SNAPSHOT_LOG_BYTES);
    let mut writer = Writer::new(&server);
    eventually("a transfer", || {
        writer.write(SNAPSHOT_LOG_BYTES / 4);
        arrived.try_recv().ok()
    });
    let begun = server.status();
    let (mut latest, mut snapshots) = (begun.snapshot, 0);
    // Less than the 32 times the tail that is kept for it.
    for _ in 0..200 {
        writer.write(SNAPSHOT_LOG_BYTES / 20);
        let snapshot = server.status().snapshot;
        snapshots += usize::from(snapshot != latest);
        latest = snapshot;
    }
    let grown = server.status().log_bytes - begun.log_bytes;
    assert!(grown > 8 * SNAPSHOT_LOG_BYTES, "{grown} bytes are kept");
    // More was written: some of it was dropped meanwhile.
    let most = 2 * grown / SNAPSHOT_LOG_BYTES;
    assert!(
        snapshots <= most,
        "{snapshots} snapshots, at most {most} were due"
    );
    server.shutdown().unwrap();
}
