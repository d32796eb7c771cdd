//! The Raft algorithm as a function: inputs go in, effects come out.
//!
//! It owns no thread, clock, file, socket or generator of its own. Time is a number that the driver
//! passes in, randomness a seed; so the same inputs yield the same effects, bit for bit, in a
//! simulator as in a process. Names and rules are those of the paper (Ongaro & Ousterhout, extended
//! version) and of Ongaro's thesis; each rule cites its section.
//!
//! ```text
//!               tick  step  propose  read  persisted  applied ...
//!                 │     │      │       │       │         │
//!                 v     v      v       v       v         v
//!   ┌──────────────────────── Raft ───────────────────────────┐
//!   │ election · replication · commit · read_index · snapshot │  the rules
//!   │ log · journal · held · progress · quorum                │  what they work on
//!   └───────┬──────────────────┬───────────────────┬──────────┘
//!           v flush            v take_write        v take_committed
//!        Effects             WriteBatch         Committed
//!     to peers, callers     to the disk     to the state machine
//! ```
//!
//! Effects are *pushed* once per batch of inputs; disk and state machine *pull* when they have room,
//! and get all that gathered meanwhile at once. That is group commit, and it bounds every queue.
//! Whatever must be durable before a message may leave has been waited for when the message shows
//! up among the effects: the driver needs no rule of its own.
//!
//! # Example
//!
//! A cluster of one elects itself, appends its first entry, and commits what it is told.
//!
//! ```
//! use bytes::Bytes;
//! use raft::core::{Committed, Config, Membership, Millis, NodeId, Raft, Restored, Role};
//!
//! let id = NodeId::new(1);
//! let members = Membership::of_voters([(id, "10.0.0.1:29016".to_owned())])?;
//! let now = Millis::new(0);
//! let mut raft = Raft::new(Config::new(id, members), Restored::default(), 42, now)?;
//!
//! raft.tick(now); // Nobody to wait for: it stands for election ...
//! let vote = raft.take_write().expect("... and its vote must be on disk");
//! raft.persisted(vote.id);
//! assert_eq!(raft.role(), Role::Leader);
//!
//! let id = raft.propose(Bytes::from_static(b"x = 1")).expect("it leads");
//! let entries = raft.take_write().expect("the entry that opens its term, and ours");
//! raft.persisted(entries.id);
//! assert_eq!(raft.commit_index(), id.index);
//!
//! let Some(Committed::Entries(entries)) = raft.take_committed(1024) else { panic!() };
//! raft.applied(entries.last().expect("at least one").id.index);
//!
//! let mut effects = Vec::new();
//! raft.flush(&mut effects); // For its driver: that it leads. There is no peer to talk to.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Read next: [`Raft`], [`Effect`], [`WriteBatch`].

mod change;
mod commit;
mod config;
mod effect;
mod election;
mod forwarded_reads;
mod held;
mod input;
mod invariants;
mod journal;
mod lease;
mod log;
mod membership;
mod message;
mod progress;
mod queries;
mod quorum;
mod raft;
mod read_index;
mod replication;
mod snapshot;
mod transfer;
mod types;

#[cfg(test)]
mod commit_test;
#[cfg(test)]
mod election_test;
#[cfg(test)]
mod forwarded_reads_test;
#[cfg(test)]
mod log_bound_test;
#[cfg(test)]
mod read_index_test;
#[cfg(test)]
mod replication_test;
#[cfg(test)]
mod snapshot_test;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod transfer_test;

pub use config::{Config, ConfigError, Lease};
pub use effect::{
    ChangeError, Committed, Effect, MembershipChange, ProposeError, Role, TransferError,
};
pub use input::{Input, State};
pub use membership::{MAX_ADDRESS_BYTES, MAX_MEMBERS, Membership, MembershipError};
pub use message::{AppendOutcome, Message};
pub use queries::Follower;
pub use raft::Raft;
pub use types::{
    CallId, Compaction, Entry, HardState, LogId, LogIndex, Millis, NodeId, Payload, ReadId,
    Restored, Term, WriteBatch, WriteId,
};
