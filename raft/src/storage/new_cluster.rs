//! The last resort of an operator whose cluster has lost its majority for good: one node's directory
//! becomes the beginning of a new cluster, of which that node is the only member.
//!
//! ```text
//!   DIR                 old identity, term t, entries ..n
//!   DIR.new-cluster     being written: new identity, the same snapshot and entries, and behind them
//!                       entry n+1 of term t+1: a membership of this node alone
//!   swap (atomic)       DIR is the new one, whole and verified; DIR.new-cluster the old one
//!   put aside           DIR.old-cluster-<its id>: unchanged, never deleted
//! ```
//!
//! Each of these steps leaves a directory that is wholly the old one or wholly the new one, whenever
//! the power goes. The new cluster has a number of its own, so whoever is left of the old one is
//! refused by it, and the other way round: nothing that was decided there can decide anything here.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::persister::Recovered;
use super::{Identity, Persister, PersisterOptions, RealDisk, SnapshotReader, StorageError};
use crate::core::{
    Entry, HardState, LogId, Membership, MembershipError, NodeId, Payload, Restored, WriteBatch,
};

/// In a directory that is being written and may be deleted.
const UNFINISHED: &str = "UNFINISHED";

/// Entries that are written at once, in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// What is copied of a snapshot at once, in bytes.
const COPY_BYTES: usize = 256 << 10;

/// What became of it.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Whose directory it was.
    pub old: Identity,
    /// Whose it is.
    pub new: Identity,
    /// The members that were in force; `None` if neither log nor snapshot says.
    pub old_members: Option<Arc<Membership>>,
    /// Where the only member can be called.
    pub address: String,
    /// Everything up to here is in a snapshot, and so was committed in the old cluster.
    pub snapshot: LogId,
    /// The last entry that the old directory had. Those after `snapshot` are kept, committed or not.
    pub last_log: LogId,
    /// The entry after it: the membership of this node alone.
    pub membership: LogId,
    /// Where the old directory is now.
    pub aside: PathBuf,
}

/// Why nothing was done: the directory is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewClusterError {
    /// The directory cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No node's directory.
    #[error("{} is no directory of a node: it has no IDENTITY", dir.display())]
    NoNode {
        /// As given.
        dir: PathBuf,
    },
    /// Another node's.
    #[error("{} is the directory of node {found}, not of node {node}", dir.display())]
    OtherNode {
        /// As given.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// As given.
        node: NodeId,
    },
    /// Neither the log nor the snapshot says where the node is called.
    #[error(
        "the log does not say at which address node {node} is called: give it (--address IP:PORT)"
    )]
    NoAddress {
        /// The node.
        node: NodeId,
    },
    /// The address is none.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A directory could not be created, renamed or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What was read back is not what was written.
    #[error("what was written to {} reads back differently: the disk is not to be trusted", path.display())]
    ReadsBackDifferently {
        /// The new directory.
        path: PathBuf,
    },
}

/// Makes the directory of `node`, which must not run, the beginning of a new cluster of its own.
/// `address`: where it can be called, if that is not what its log says.
///
/// **Acknowledged writes may be lost**: those that this node had not received. Entries that it had
/// received and that were never committed are committed by the new cluster. And whoever is left of
/// the old cluster must never run again: a majority of it would go on as if nothing had happened.
///
/// # Errors
/// [`NewClusterError`]: the directory is as it was.
pub fn force_new_cluster(
    dir: &Path,
    node: NodeId,
    address: Option<String>,
) -> Result<NewCluster, NewClusterError> {
    let dir = absolute(dir)?;
    let old = Old::open(&dir, node)?;
    let beside = with_suffix(&dir, ".new-cluster");
    clear(&beside)?;
    let plan = Plan::of(&old, address)?;
    let written = write_beside(&old, &plan, &beside)?;
    finish(&beside)?;
    swap(&dir, &beside)?;
    let aside = put_aside(&dir, &beside)?;
    // Both locks were held to here: no node starts in between.
    drop(written);
    let Plan { new, address, .. } = plan;
    Ok(NewCluster {
        old: old.identity,
        new,
        old_members: old.members(),
        address,
        snapshot: old.restored.snapshot,
        last_log: old.last_log(),
        membership: plan.entry.id,
        aside,
    })
}

/// The old directory, locked.
struct Old {
    identity: Identity,
    persister: Persister,
    restored: Restored,
}

impl Old {
    fn open(dir: &Path, node: NodeId) -> Result<Self, NewClusterError> {
        let no_node = || NewClusterError::NoNode {
            dir: dir.to_owned(),
        };
        // What is not there must not be created.
        if !dir.join(super::identity::FILE).is_file() {
            return Err(no_node());
        }
        let disk = RealDisk::open(dir)?;
        let identity = Identity::recorded(&disk)?.ok_or_else(no_node)?;
        if identity.node != node {
            return Err(NewClusterError::OtherNode {
                dir: dir.to_owned(),
                found: identity.node,
                node,
            });
        }
        let (persister, recovered) = Persister::open(disk, identity, PersisterOptions::default())?;
        let Recovered { restored, .. } = recovered;
        Ok(Self {
            identity,
            persister,
            restored,
        })
    }

    fn last_log(&self) -> LogId {
        let last = self.restored.entries.last().map(|entry| entry.id);
        last.unwrap_or(self.restored.prev)
            .max(self.restored.snapshot)
    }

    /// The members in force: the latest in the log (§6).
    fn members(&self) -> Option<Arc<Membership>> {
        let in_log = self.restored.entries.iter().rev();
        let mut in_log = in_log.filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership),
            _ => None,
        });
        in_log.next().or(self.restored.membership.as_ref()).cloned()
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let snapshot = self.restored.snapshot.index;
        let entries = self.restored.entries.iter();
        entries.filter(move |entry| entry.id.index > snapshot)
    }

    fn open_snapshot(&self) -> Result<Option<SnapshotReader>, StorageError> {
        match self.restored.snapshot {
            LogId::ZERO => Ok(None),
            id => self.persister.snapshots().open(id).map(Some),
        }
    }
}

/// What is written besides what is copied.
struct Plan {
    new: Identity,
    address: String,
    /// As if this node had been elected once more by itself, and had appended the entry.
    hard_state: HardState,
    entry: Entry,
}

impl Plan {
    fn of(old: &Old, address: Option<String>) -> Result<Self, NewClusterError> {
        let node = old.identity.node;
        let known = old.members();
        let known = known.and_then(|members| members.addresses().get(&node).cloned());
        let address = address
            .or(known)
            .ok_or(NewClusterError::NoAddress { node })?;
        let alone = Membership::of_voters([(node, address.clone())])?;
        let term = old.restored.hard_state.current_term.next();
        let mut cluster = old.identity.cluster;
        while cluster == old.identity.cluster || cluster == 0 {
            cluster = fastrand::u64(..);
        }
        Ok(Self {
            new: Identity { node, cluster },
            address,
            hard_state: HardState {
                current_term: term,
                voted_for: Some(node),
            },
            entry: Entry {
                id: LogId::new(term, old.last_log().index.next()),
                payload: Payload::Membership(Arc::new(alone)),
            },
        })
    }
}

/// Writes the new directory and reads it back. It stays locked.
fn write_beside(old: &Old, plan: &Plan, beside: &Path) -> Result<Persister, NewClusterError> {
    begin(beside)?;
    let open = || {
        let disk = RealDisk::open(beside)?;
        Persister::open(disk, plan.new, PersisterOptions::default())
    };
    let (mut persister, _) = open()?;
    if let Some(mut snapshot) = old.open_snapshot()? {
        let none = Membership::default();
        let membership = snapshot.membership().cloned();
        let store = persister.snapshots();
        let mut copy = store.create(snapshot.id(), membership.as_deref().unwrap_or(&none))?;
        io::copy(&mut snapshot, &mut copy).map_err(|error| failed("copy to", beside, error))?;
        copy.finish()?;
    }
    let snapshot = old.restored.snapshot;
    let mut batch = WriteBatch {
        hard_state: Some(plan.hard_state),
        reset_to: (snapshot != LogId::ZERO).then_some(snapshot),
        ..WriteBatch::default()
    };
    let mut bytes = 0;
    for entry in old.entries().chain([&plan.entry]) {
        bytes += entry.size_bytes();
        batch.entries.push(entry.clone());
        if bytes >= BATCH_BYTES {
            persister.write(&batch)?;
            (batch, bytes) = (WriteBatch::default(), 0);
        }
    }
    persister.write(&batch)?;
    persister.sync()?;
    drop(persister);

    let (persister, Recovered { restored, .. }) = open()?;
    let copied = restored
        .entries
        .iter()
        .eq(old.entries().chain([&plan.entry]));
    let is_whole = copied
        && restored.hard_state == plan.hard_state
        && restored.snapshot == snapshot
        && same_body(old, &persister)?;
    if !is_whole {
        let path = beside.to_owned();
        return Err(NewClusterError::ReadsBackDifferently { path });
    }
    Ok(persister)
}

fn same_body(old: &Old, new: &Persister) -> Result<bool, NewClusterError> {
    let Some(mut before) = old.open_snapshot()? else {
        return Ok(true);
    };
    let mut after = new.snapshots().open(before.id())?;
    let read = |from: &mut SnapshotReader| {
        let mut bytes = Vec::new();
        let read = from.take(COPY_BYTES as u64).read_to_end(&mut bytes);
        read.map_err(|error| failed("read", Path::new("the snapshot"), error))?;
        Ok::<_, NewClusterError>(bytes)
    };
    loop {
        let (a, b) = (read(&mut before)?, read(&mut after)?);
        if a != b || a.is_empty() {
            return Ok(a == b);
        }
    }
}

/// Removes what an attempt that was cut off left, or puts aside what it had swapped already.
fn clear(beside: &Path) -> Result<(), NewClusterError> {
    if beside.join(UNFINISHED).exists() {
        fs::remove_dir_all(beside).map_err(|error| failed("remove", beside, error))?;
    } else if beside.exists() {
        let aside = free_name(beside, ".left");
        fs::rename(beside, &aside).map_err(|error| failed("rename", beside, error))?;
    }
    Ok(())
}

fn begin(beside: &Path) -> Result<(), NewClusterError> {
    let text =
        "kvctl force-new-cluster was writing this, and has not finished. It may be deleted.\n";
    let write = || {
        fs::create_dir(beside)?;
        let mut file = File::create(beside.join(UNFINISHED))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        sync(beside)?;
        sync(parent(beside))
    };
    write().map_err(|error| failed("create", beside, error))
}

/// From here on it is a node's directory like any other.
fn finish(beside: &Path) -> Result<(), NewClusterError> {
    let path = beside.join(UNFINISHED);
    fs::remove_file(&path)
        .and_then(|()| sync(beside))
        .map_err(|error| failed("remove", &path, error))
}

/// One name or the other, never neither.
fn swap(dir: &Path, beside: &Path) -> Result<(), NewClusterError> {
    renameat_with(CWD, dir, CWD, beside, RenameFlags::EXCHANGE)
        .map_err(io::Error::from)
        .and_then(|()| sync(parent(dir)))
        .map_err(|error| failed("exchange the names of DIR and", beside, error))
}

fn put_aside(dir: &Path, beside: &Path) -> Result<PathBuf, NewClusterError> {
    let aside = free_name(dir, ".old-cluster");
    fs::rename(beside, &aside)
        .and_then(|()| sync(parent(dir)))
        .map_err(|error| failed("rename", beside, error))?;
    Ok(aside)
}

/// A name that nothing has yet.
fn free_name(dir: &Path, suffix: &str) -> PathBuf {
    let names = (1_u64..).map(|number| with_suffix(dir, &format!("{suffix}-{number}")));
    let mut free = names.filter(|name| !name.exists());
    free.next().expect("there are more names than directories")
}

fn with_suffix(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory itself, also where its name is a link or ends in a slash.
fn absolute(dir: &Path) -> Result<PathBuf, NewClusterError> {
    fs::canonicalize(dir).map_err(|error| failed("find", dir, error))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().unwrap_or(Path::new("/"))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> NewClusterError {
    NewClusterError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "new_cluster_test.rs"]
mod tests;
