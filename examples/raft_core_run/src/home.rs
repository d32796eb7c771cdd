//! What a node's directory says before the node starts: whose it is, and where the node listens.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use raft::storage::Identity;
use raft::storage::inspect::{Directory, LogItem, Record, SnapshotFile};
use raft::{Membership, NodeId, Payload, StorageError};

/// Whose directory this is; `None` where no node has run in it.
pub(crate) fn identity(dir: &Path) -> Result<Option<Identity>, StorageError> {
    let is_there = |name| dir.join(name).exists();
    if !["IDENTITY", "wal", "snapshot"].into_iter().any(is_there) {
        return Ok(None);
    }
    Ok(Some(Directory::open_live(dir)?.identity()))
}

/// Last index and term of the log in a directory, of a running node or not; `None` where that
/// cannot be told.
pub(crate) fn progress(dir: &Path) -> Option<(u64, u64)> {
    let state = Directory::open_live(dir).ok()?.verify_log().ok()?.state;
    Some((state.last_index.get(), state.hard_state.current_term.get()))
}

/// Whether `node` takes part, or once took part, in the cluster of another node's directory. `None`
/// where that cannot be told.
pub(crate) fn has_member(dir: &Path, node: NodeId) -> Option<bool> {
    let first = Directory::open_live(dir).ok()?.first_voters().ok()??;
    let came_later = address(dir, node).ok()?.is_some();
    (!first.is_empty()).then(|| first.contains(&node) || came_later)
}

/// Where the cluster calls the node of this directory, as its log or newest snapshot has it.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn address(dir: &Path, node: NodeId) -> Result<Option<SocketAddr>, StorageError> {
    let mut found = None;
    let mut look_in = |membership: &Membership| {
        let address = membership.addresses().get(&node);
        found = address.and_then(|it| it.parse().ok()).or(found);
    };
    if let Some(snapshot) = newest_snapshot(dir)
        && let Some(membership) = SnapshotFile::open(snapshot)?.verify()?.membership()
    {
        look_in(membership);
    }
    // An entry that was overwritten may count here as well: the address of a member does not change
    // but by a change that names another.
    Directory::open_live(dir)?.dump_log(|item| {
        if let LogItem::Record(found) = item
            && let Record::Entry(entry) = found.record
            && let Payload::Membership(membership) = entry.payload
        {
            look_in(&membership);
        }
        Ok::<(), StorageError>(())
    })?;
    Ok(found)
}

/// Its name begins with its index, in as many digits as any.
fn newest_snapshot(dir: &Path) -> Option<PathBuf> {
    let list = || -> io::Result<Option<PathBuf>> {
        let mut newest = None;
        for entry in std::fs::read_dir(dir.join("snapshot"))? {
            let path = entry?.path();
            let is_finished = path
                .extension()
                .is_some_and(|extension| extension == "snap");
            if is_finished && newest.as_ref().is_none_or(|newest| *newest < path) {
                newest = Some(path);
            }
        }
        Ok(newest)
    };
    list().ok().flatten()
}
