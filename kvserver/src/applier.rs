//! The applier: the thread that owns the state machine and drains applyChan.
//!
//! It applies committed entries in their order, answers who waits for them, answers reads that have
//! become safe, replaces the state by an installed snapshot, and begins snapshots of its own, which
//! another thread writes while applies go on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Receiver;
use raft::{
    ApplyMsg, CommittedEntry, InstalledSnapshot, LogId, LogIndex, NodeHandle, Payload, SnapshotJob,
    StorageError, Term,
};

use crate::answer;
use crate::engine::{Engine, EngineError, EngineView};
use crate::log_clock::LogClock;
use crate::request::{Kind, Request};
use crate::service::begin_legacy;
use crate::snapshot::{RestoreError, Snapshot};
use crate::state_machine::{ApplyError, StateMachine, StateMachineOptions};

/// Why the applier stopped. The node must stop as well: its state no longer follows the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplierError {
    /// An entry could not be applied.
    #[error("cannot apply entry {id}: {source}")]
    Apply {
        /// The entry.
        id: LogId,
        /// Why.
        source: ApplyError,
    },
    /// The state could not be read.
    #[error("cannot read the state")]
    Read(#[from] EngineError),
    /// A snapshot that the node holds could not be opened.
    #[error("cannot open snapshot {id}: {source}")]
    Open {
        /// Its last included entry.
        id: LogId,
        /// Why.
        source: StorageError,
    },
    /// A snapshot's content could not be restored.
    #[error("cannot restore snapshot {id}: {source}")]
    Restore {
        /// Its last included entry.
        id: LogId,
        /// Why.
        source: RestoreError,
    },
}

/// Sizes of the state, for whoever asks; updated after each batch.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    keys: AtomicU64,
    sessions: AtomicU64,
}

impl Gauges {
    pub(crate) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(crate) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}

/// Makes an empty engine: one at start, two for each snapshot that replaces the state (nothing, then
/// what the snapshot says).
pub(crate) type NewEngine<E> = Box<dyn Fn() -> Result<E, EngineError> + Send>;

pub(crate) struct Applier<E: Engine> {
    state: StateMachine<E>,
    options: StateMachineOptions,
    new_engine: NewEngine<E>,
    node: NodeHandle<Request>,
    clock: Arc<LogClock>,
    gauges: Arc<Gauges>,
    snapshot: SnapshotThread,
}

impl<E: Engine> Applier<E> {
    pub(crate) fn new(
        new_engine: NewEngine<E>,
        options: StateMachineOptions,
        node: NodeHandle<Request>,
        clock: Arc<LogClock>,
        gauges: Arc<Gauges>,
    ) -> Result<Self, EngineError> {
        let state = StateMachine::new(new_engine()?, options.clone())?;
        let snapshot = SnapshotThread::default();
        Ok(Self {
            state,
            options,
            new_engine,
            node,
            clock,
            gauges,
            snapshot,
        })
    }

    /// Runs until the node stops.
    pub(crate) fn run(
        mut self,
        apply_chan: &Receiver<ApplyMsg<Request>>,
    ) -> Result<(), ApplierError> {
        for message in apply_chan {
            match message {
                ApplyMsg::Entries(entries) => {
                    for entry in entries {
                        self.apply(entry)?;
                    }
                }
                ApplyMsg::Reads(reads) => {
                    for read in reads {
                        self.answer_read(read)?;
                    }
                }
                ApplyMsg::Install(snapshot) => self.install(&snapshot)?,
                ApplyMsg::TakeSnapshot(job) => self.take_snapshot(job),
            }
            self.report();
        }
        Ok(())
    }

    fn apply(
        &mut self,
        CommittedEntry { entry, waiter }: CommittedEntry<Request>,
    ) -> Result<(), ApplierError> {
        let (index, term) = (entry.id.index.get(), entry.id.term.get());
        let applied = match &entry.payload {
            // Who the members are is the node's business.
            Payload::Empty | Payload::Membership(_) => self.state.apply_empty(index, term),
            Payload::Command(command) => self.state.apply(index, term, command),
        };
        let outcome = applied.map_err(|source| ApplierError::Apply {
            id: entry.id,
            source,
        })?;
        match waiter {
            Some(Request {
                kind: Kind::Get { key, done, .. },
                ..
            }) => {
                done.run(answer::to_get(self.state.get(&key)?));
            }
            Some(request) => request.answer(&outcome),
            None => {}
        }
        Ok(())
    }

    fn answer_read(&self, request: Request) -> Result<(), ApplierError> {
        match request.kind {
            Kind::Get {
                first_of: Some(client),
                key,
                done,
            } if self.state.needs_begin_legacy(&client) => {
                // The next request of this process is numbered 2: unless the log hears of its birth,
                // that would be taken for a repetition of its predecessor's. It is answered when the
                // entry is applied.
                let kind = Kind::Get {
                    first_of: None,
                    key,
                    done,
                };
                match begin_legacy(client, &self.clock) {
                    Ok(entry) => self.node.propose(entry, Request { kind, ..request }),
                    Err(_) => kind.refuse(rpc::Code::InvalidArgument, "the ClientId is too long"),
                }
            }
            Kind::Get { key, done, .. } => done.run(answer::to_get(self.state.get(&key)?)),
            kind => kind.fail(rpc::Code::Internal, "a write came out as a read"),
        }
        Ok(())
    }

    /// Replaces the state. The old one goes first, and a snapshot of it that is being written: nobody
    /// reads it meanwhile, as reads wait behind this, and there may be no memory for both.
    fn install(&mut self, snapshot: &InstalledSnapshot) -> Result<(), ApplierError> {
        let id = snapshot.last_included();
        let started = Instant::now();
        self.snapshot.cancel();
        let reader = snapshot
            .open()
            .map_err(|source| ApplierError::Open { id, source })?;
        self.state = StateMachine::new((self.new_engine)()?, self.options.clone())?;
        self.state = StateMachine::restore((self.new_engine)()?, self.options.clone(), reader)
            .map_err(|source| ApplierError::Restore { id, source })?;
        tracing::info!(
            snapshot = %id, keys = self.state.key_count(), sessions = self.state.session_count(),
            elapsed_ms = started.elapsed().as_millis(), "state restored from a snapshot"
        );
        if let Err(error) = snapshot.remove_older() {
            tracing::warn!(snapshot = %id, %error, "older snapshots not removed");
        }
        Ok(())
    }

    fn take_snapshot(&mut self, job: SnapshotJob<Request>) {
        // Without a view the job is dropped, which tells the node to ask again later.
        let Some(snapshot) = self.state.begin_snapshot() else {
            return;
        };
        if let Err(error) = self.snapshot.start(job, snapshot) {
            tracing::error!(%error, "cannot start a thread to write a snapshot");
        }
    }

    fn report(&self) {
        self.clock.observe(self.state.log_time(), Instant::now());
        self.gauges
            .keys
            .store(self.state.key_count() as u64, Ordering::Relaxed);
        self.gauges
            .sessions
            .store(self.state.session_count() as u64, Ordering::Relaxed);
        self.node
            .applied(LogIndex::new(self.state.last_applied().index));
    }
}

/// The thread that writes a snapshot, if one runs. Dropping it gives the snapshot up.
#[derive(Default)]
struct SnapshotThread {
    running: Option<(JoinHandle<()>, Arc<AtomicBool>)>,
}

impl SnapshotThread {
    fn start<V: EngineView + 'static>(
        &mut self,
        job: SnapshotJob<Request>,
        snapshot: Snapshot<V>,
    ) -> io::Result<()> {
        self.cancel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("snapshot-write".to_owned())
            .spawn(move || write_snapshot(job, snapshot, &stopped))?;
        self.running = Some((thread, stop));
        Ok(())
    }

    fn cancel(&mut self) {
        if let Some((thread, stop)) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            if thread.join().is_err() {
                tracing::error!("the thread that wrote a snapshot panicked");
            }
        }
    }
}

impl Drop for SnapshotThread {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn write_snapshot<V: EngineView>(
    job: SnapshotJob<Request>,
    snapshot: Snapshot<V>,
    stop: &AtomicBool,
) {
    let applied = snapshot.last_included();
    let id = LogId::new(Term::new(applied.term), LogIndex::new(applied.index));
    let started = Instant::now();
    let written = job
        .create(id)
        .map_err(|error| error.to_string())
        .and_then(|mut file| {
            let out = Interruptible {
                out: &mut file,
                stop,
            };
            snapshot.write_to(out).map_err(|error| error.to_string())?;
            job.finish(file, id).map_err(|error| error.to_string())
        });
    let elapsed_ms = started.elapsed().as_millis();
    match written {
        Ok(()) => tracing::info!(snapshot = %id, elapsed_ms, "snapshot taken"),
        Err(error) => tracing::warn!(snapshot = %id, elapsed_ms, error, "no snapshot taken"),
    }
}

/// A writer that fails once somebody says stop.
struct Interruptible<'a, W> {
    out: W,
    stop: &'a AtomicBool,
}

impl<W: io::Write> io::Write for Interruptible<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(
                "given up: the node stops, or a newer state has come",
            ));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Mutex;
    use std::time::Duration;

    use bytes::Bytes;
    use proto::kv::{KvServerRpcStub, PutAppendArgs};
    use raft::{NodeId, NodeOptions, RaftNode};
    use rpc::{EventLoops, RpcChannel, RpcController};

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::server::{KvServer, KvServerOptions};

    /// Only ends a test that hangs.
    const HANG_GUARD: Duration = Duration::from_mins(1);

    /// A value of the old state, by which to tell whether that is still there.
    struct Old {
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Old {
        fn as_ref(&self) -> &[u8] {
            b"old"
        }
    }

    /// A node alone, which takes a snapshot after every write.
    fn options(dir: &tempfile::TempDir) -> NodeOptions {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let loops = EventLoops::start(1, "test-node").unwrap();
        let addresses = [listener.local_addr().unwrap()];
        NodeOptions {
            snapshot_log_bytes: 0,
            ..NodeOptions::new(
                NodeId::new(0),
                &addresses,
                7,
                dir.path().join("node0"),
                loops,
            )
        }
    }

    /// Leaves a directory with a snapshot that has a key.
    fn write_and_take_a_snapshot(dir: &tempfile::TempDir) {
        let server = KvServer::start(KvServerOptions::new(options(dir)).unwrap()).unwrap();
        let stub = KvServerRpcStub::new(RpcChannel::new(server.local_addr()));
        let started = Instant::now();
        for request_id in 1.. {
            let args = PutAppendArgs {
                key: Bytes::from_static(b"new"),
                value: Bytes::from_static(b"new"),
                op: Bytes::from_static(b"Put"),
                client_id: Bytes::from_static(b"c"),
                request_id,
                ..PutAppendArgs::default()
            };
            let written = stub.put_append(&mut RpcController::with_timeout(HANG_GUARD), &args);
            // Entry 1 is the leader's own.
            if server.status().snapshot.index.get() >= 2 {
                return server.shutdown().unwrap();
            }
            assert!(started.elapsed() < HANG_GUARD, "no snapshot; {written:?}");
        }
    }

    /// A follower that is sent a snapshot may not have the memory for two states.
    #[test]
    fn the_old_state_is_gone_before_a_snapshot_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        write_and_take_a_snapshot(&dir);
        let (node, apply_chan) = RaftNode::start(options(&dir)).unwrap();
        let ApplyMsg::Install(snapshot) = apply_chan.recv_timeout(HANG_GUARD).unwrap() else {
            panic!("a node that has a snapshot begins with it")
        };

        let alive = Arc::new(());
        let references = Arc::new(Mutex::new(Vec::new()));
        let (watched, seen) = (Arc::downgrade(&alive), Arc::clone(&references));
        let new_engine = move || {
            seen.lock().unwrap().push(watched.strong_count());
            Ok(MemoryEngine::new())
        };
        let mut applier = Applier::new(
            Box::new(new_engine),
            StateMachineOptions::default(),
            node.handle(),
            Arc::new(LogClock::new(Instant::now())),
            Arc::new(Gauges::default()),
        )
        .unwrap();
        let old = Bytes::from_owner(Old { _alive: alive });
        applier
            .state
            .engine
            .put(Bytes::from_static(b"old"), old)
            .unwrap();
        applier.install(&snapshot).unwrap();

        assert_eq!(
            applier.state.get(b"new").unwrap().as_deref(),
            Some(&b"new"[..])
        );
        let references = references.lock().unwrap();
        assert_eq!(references.first(), Some(&1), "the old state has it");
        assert_eq!(
            references.last(),
            Some(&0),
            "when the new one's engine is made"
        );
    }
}
