//! Raft consensus (Ongaro & Ousterhout, *In Search of an Understandable Consensus Algorithm*,
//! extended version; and Ongaro's thesis): a pure core, a durable log, and the node that drives them.
//!
//! ```text
//!               RaftService          Peer
//!   peers ───calls───┐                ▲ calls
//!                    ▼                │
//!   propose ──>  ┌───────── node ─────────┐ ──> applyChan ──> your state machine
//!   read ─────>  │  core::Raft  (pure)    │ <── applied
//!                └──────────┬─────────────┘
//!                        storage: write-ahead log, snapshot files
//! ```
//!
//! Three layers, to be read in this order:
//!
//! - [`core`]: the algorithm. Inputs go in, effects come out; no thread, clock, file or socket.
//! - [`storage`]: what survives a crash, byte for byte.
//! - [`record`]: a run of the core as a file, to be replayed.
//! - the node: [`RaftNode`] owns one core and carries out its effects; [`RaftService`] lets peers in.
//!
//! Comments that say *failure N*, or *the original's defect N*, mean the lists in `docs/failures.md`.
//!
//! A service built on it reads [`ApplyMsg`]s and answers its clients through its [`Waiter`]:
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use raft::{ApplyMsg, NodeId, NodeOptions, Payload, RaftNode, Refusal, Waiter};
//!
//! /// Wants to know whether its proposal was committed.
//! struct Caller(std::sync::mpsc::Sender<Result<u64, Refusal>>);
//!
//! impl Waiter for Caller {
//!     fn refuse(self, why: Refusal) {
//!         let _ = self.0.send(Err(why));
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let data_dir = dir.path().join("node0");
//! let loops = rpc::EventLoops::start(1, "raft")?;
//! let alone: SocketAddr = "127.0.0.1:1".parse()?; // a cluster of one calls nobody
//! let options = NodeOptions::new(NodeId::new(0), &[alone], 7, data_dir, loops);
//! let (node, apply_chan) = RaftNode::start(options)?;
//!
//! let (sender, outcome) = std::sync::mpsc::channel();
//! while !node.handle().status().serving {
//!     std::thread::yield_now(); // elects itself
//! }
//! node.handle().propose("hello".into(), Caller(sender));
//!
//! 'applied: for message in &apply_chan {
//!     let ApplyMsg::Entries(entries) = message else { continue };
//!     for committed in entries {
//!         node.handle().applied(committed.entry.id.index);
//!         if let (Payload::Command(_), Some(Caller(sender))) = (&committed.entry.payload, committed.waiter) {
//!             sender.send(Ok(committed.entry.id.index.get()))?;
//!             break 'applied;
//!         }
//!     }
//! }
//! assert_eq!(outcome.recv()?, Ok(2)); // entry 1 is the empty one that the new leader appended
//! node.shutdown()?;
//! # Ok(())
//! # }
//! ```

pub mod core;
pub mod driving;
pub mod record;
pub mod storage;

mod cluster_service;
mod convert;
mod log_limit;
mod membership_codec;
mod node;
mod peer;
mod service;

pub use crate::cluster_service::ClusterService;
pub use crate::core::{
    ChangeError, Follower, Lease, LogId, LogIndex, Membership, MembershipChange, MembershipError,
    NodeId, Payload, Role, Term, TransferError,
};
pub use crate::node::{
    Answer, ApplyMsg, ChangeFailure, CommittedEntry, FatalError, InstalledSnapshot, NodeHandle,
    NodeOptions, NodeStatus, RaftNode, RecordOptions, Refusal, SnapshotJob, StartError,
    StatusReader, TransferFailure, Waiter,
};
pub use crate::service::RaftService;
pub use crate::storage::StorageError;
