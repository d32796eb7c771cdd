//! The node: one thread that feeds the core and carries out its effects (blueprint: thesis §10.2.1).
//!
//! ```text
//!  RpcProvider ──calls──┐                        ┌──> peers          RpcChannels
//!  peers' replies ──────┤                        ├──> log writer     one fdatasync for what gathered
//!  log writer ──────────┼──> inbox ──> driver ───┼──> applyChan      committed entries, safe reads
//!  state machine ───────┤             (core)     ├──> snapshot threads
//!  proposals, reads ────┘                        └──> replies to peers
//! ```
//!
//! The driver never waits for a disk, a socket or the state machine: a slow disk slows commits but
//! not heartbeats. Nothing else touches the core, so nothing needs a lock.
//!
//! Read next: [`RaftNode`] to run one, [`ApplyMsg`] for what comes out, `driver.rs` for the loop.

mod apply;
mod calls;
mod delivery;
mod driver;
mod inbox;
mod log_writer;
mod operator;
mod options;
mod recorder;
mod snapshot_transfer;
mod snapshots;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use parking_lot::Mutex;

pub use self::apply::{ApplyMsg, CommittedEntry, InstalledSnapshot, Refusal, SnapshotJob, Waiter};
pub use self::operator::{Answer, ChangeFailure, TransferFailure};
pub use self::options::{NodeOptions, RecordOptions};
use crate::core::{ConfigError, LogId, LogIndex, Membership, NodeId, Role, Term};
use crate::node::driver::Driver;
use crate::node::inbox::Inbox;
pub(crate) use crate::node::inbox::{PeerCall, PeerReply};
use crate::storage::{StorageError, TornTail};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory is unusable; the text names file, offset and what to do.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The options contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log would reach its bound before a snapshot could make it shorter.
    #[error("a snapshot at {snapshot} bytes of log comes too late where there may be {max}")]
    LogBounds {
        /// [`NodeOptions::snapshot_log_bytes`].
        snapshot: usize,
        /// [`NodeOptions::max_log_bytes`].
        max: usize,
    },
    /// What the node is told is to be recorded, and cannot be.
    #[error("cannot record to {}: {source}", file.display())]
    Record {
        /// The file asked for.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Why a running node stopped by itself. The process must end: other nodes carry on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatalError {
    /// The log, or a snapshot, could not be made durable, so nothing more can be promised.
    #[error("the log is no longer durable: {0}")]
    Storage(#[source] StorageError),
    /// Peers contradict what Raft guarantees; going on could lose data.
    #[error("safety violated, stopping rather than guessing: {0}")]
    Safety(String),
    /// A thread of the node ended before the node did.
    #[error("the {0} thread ended unexpectedly; see its panic message above")]
    Thread(&'static str),
}

/// What a node knows of itself, as of its latest turn.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the paper's; those that are not say what they are"
)]
pub struct NodeStatus {
    pub id: NodeId,
    pub role: Role,
    pub term: Term,
    pub leader: Option<NodeId>,
    /// A leader that has committed an entry of its own term, and so may serve reads (§8).
    pub serving: bool,
    pub last_log: LogId,
    pub commit_index: LogIndex,
    pub last_applied: LogIndex,
    /// The last entry that the latest snapshot includes.
    pub snapshot: LogId,
    /// Size of the log in memory.
    pub log_bytes: usize,
    /// The members in force: the latest in the log (§6).
    pub membership: Arc<Membership>,
    /// The entry that brought them; zero for those with which the cluster began.
    pub membership_index: LogIndex,
    /// Who is to lead next, while this leader hands over.
    pub handing_over_to: Option<NodeId>,
}

impl NodeStatus {
    /// Where a member can be called, as the membership in force has it.
    #[must_use]
    pub fn address_of(&self, node: NodeId) -> Option<&str> {
        self.membership.addresses().get(&node).map(String::as_str)
    }
}

/// What a node knows of itself, to be read at any time, from any thread. Keeps nothing running.
#[derive(Clone, Debug)]
pub struct StatusReader {
    status: Arc<Mutex<NodeStatus>>,
}

impl StatusReader {
    /// As of the node's latest turn, or its last.
    #[must_use]
    pub fn get(&self) -> NodeStatus {
        self.status.lock().clone()
    }
}

/// A running node. Dropping it stops it, as [`RaftNode::shutdown`] does.
pub struct RaftNode<W: Waiter> {
    handle: NodeHandle<W>,
    driver: Option<JoinHandle<Result<(), FatalError>>>,
    torn_tail: Option<TornTail>,
}

impl<W: Waiter> RaftNode<W> {
    /// Recovers the node from its data directory and starts its threads. What has been committed
    /// comes out of the returned applyChan, beginning with the snapshot, if there is one.
    ///
    /// The node neither listens nor is reachable until a provider serves [`crate::RaftService`].
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub fn start(options: NodeOptions) -> Result<(Self, Receiver<ApplyMsg<W>>), StartError> {
        let (driver, handle, apply_chan, torn_tail) = Driver::recover(options)?;
        let driver = std::thread::Builder::new()
            .name("raft".to_owned())
            .spawn(move || driver.run())
            .map_err(StartError::Thread)?;
        Ok((
            Self {
                handle,
                driver: Some(driver),
                torn_tail,
            },
            apply_chan,
        ))
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> NodeHandle<W> {
        self.handle.clone()
    }

    /// What a crash had cut off the log, dropped at start. Nothing that was acknowledged.
    #[must_use]
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn_tail.as_ref()
    }

    /// Stops the node: refuses whoever waits, finishes the write under way, joins its threads.
    ///
    /// # Errors
    /// The [`FatalError`] that had stopped it before.
    pub fn shutdown(mut self) -> Result<(), FatalError> {
        self.stop()
    }

    /// Waits until the node stops.
    ///
    /// # Errors
    /// The [`FatalError`] that stopped it.
    pub fn join(mut self) -> Result<(), FatalError> {
        self.join_driver()
    }

    fn stop(&mut self) -> Result<(), FatalError> {
        self.handle.inbox.shut_down();
        self.join_driver()
    }

    fn join_driver(&mut self) -> Result<(), FatalError> {
        match self.driver.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(FatalError::Thread("raft")),
        }
    }
}

impl<W: Waiter> Drop for RaftNode<W> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the node had failed");
        }
    }
}

/// Proposes, reads and reports, from any thread. Clones share the node.
pub struct NodeHandle<W: Waiter> {
    inbox: Inbox<W>,
    status: Arc<Mutex<NodeStatus>>,
}

impl<W: Waiter> Clone for NodeHandle<W> {
    fn clone(&self) -> Self {
        Self {
            inbox: self.inbox.clone(),
            status: Arc::clone(&self.status),
        }
    }
}

impl<W: Waiter> NodeHandle<W> {
    /// Asks for `command` to be committed. Never blocks.
    ///
    /// `waiter` comes out of applyChan beside its entry, or is refused: exactly one of the two. While
    /// the node stops it may be dropped instead.
    pub fn propose(&self, command: Bytes, waiter: W) {
        self.inbox.propose(command, waiter);
    }

    /// Asks for a moment at which the applied state is safe to read (thesis §6.4). Never blocks.
    ///
    /// `waiter` comes out of applyChan behind every entry its read must see, or is refused.
    pub fn read(&self, waiter: W) {
        self.inbox.read(waiter, false);
    }

    /// As [`read`](Self::read), also on a node that does not lead: it asks the leader from where on
    /// its own state is recent enough, and answers from that.
    pub fn read_anywhere(&self, waiter: W) {
        self.inbox.read(waiter, true);
    }

    /// Reports that the state machine has applied everything up to `index`.
    pub fn applied(&self, index: LogIndex) {
        self.inbox.applied(index);
    }

    /// What the node knew of itself at its latest turn.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.status.lock().clone()
    }

    /// Reads the status without holding the node: for what outlives a request.
    #[must_use]
    pub fn status_reader(&self) -> StatusReader {
        StatusReader {
            status: Arc::clone(&self.status),
        }
    }

    pub(crate) fn peer_call(&self, call: PeerCall) {
        self.inbox.peer_call(call);
    }
}
