//! What survives: the write-ahead log, the snapshots, and the identity of a node's directory.
//!
//! ```text
//! <data>/node<i>/LOCK        held while a process serves the directory
//!                IDENTITY    node, cluster, format version
//!                MEMBERS     who voted when the directory was set up
//!                wal/        0000000000000001.wal, ...: segments of checksummed records
//!                snapshot/   <index>-<term>.snap: the state machine's state up to an entry
//! ```
//!
//! [`Persister::open`] reads all of it, checks it, and yields what the core starts from;
//! [`Persister::write`] appends a [`WriteBatch`](crate::core::WriteBatch), [`Persister::sync`]
//! makes everything written durable with one `fdatasync`. [`SnapshotStore`] is shared by the
//! threads that take, send and receive snapshots. Every byte is drawn in `docs/storage.md`.
//!
//! Read next: [`Persister`], then the rules for a torn and a damaged log in `wal/replay.rs`. All
//! file access goes through [`Disk`], so that the tests, and a simulator of whole clusters, can put
//! a [`sim_disk::SimDisk`] in its place, which loses power and runs full when told to.

mod disk;
mod error;
mod first_members;
mod identity;
pub mod inspect;
mod new_cluster;
mod persister;
mod read_only_disk;
mod real_disk;
mod record;
mod sealed_text;
pub mod sim_disk;
mod snapshot_file;
mod snapshot_store;
mod snapshot_writer;
mod wal;

pub use disk::{Disk, DiskFile, LockError, LockGuard};
pub use error::StorageError;
pub use first_members::first_members;
pub use identity::Identity;
pub use new_cluster::{NewCluster, NewClusterError, force_new_cluster};
pub use persister::{Persister, PersisterOptions, Recovered};
pub use real_disk::RealDisk;
pub use snapshot_file::SnapshotReader;
pub use snapshot_store::{ReceiveOutcome, SnapshotStore};
pub use snapshot_writer::SnapshotWriter;
pub use wal::TornTail;

/// The format of every file in a node's directory; it counts up when one of them changes.
pub(crate) const FORMAT_VERSION: u32 = 1;
