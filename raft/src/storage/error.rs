//! Why storage refused or failed: each text names the file and what to do next.

use std::io;
use std::path::PathBuf;

use crate::core::{LogId, LogIndex};

use super::disk::is_full;

/// Where every text about damage sends its reader.
const DAMAGED: &str = "the other nodes carry on without this one; do not delete or edit its \
    directory, see \"A damaged node\" in docs/storage.md";

/// Why storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process serves this directory.
    #[error(
        "{file} is held by {holder}: a data directory serves one process; stop that one, or give \
         this node a directory of its own"
    )]
    InUse {
        /// The lock file.
        file: PathBuf,
        /// Who holds it.
        holder: String,
    },

    /// The directory was made for another node, or for another cluster.
    #[error(
        "{file} belongs to node {found_node} of cluster {found_cluster:#018x}, and this is node \
         {node} of cluster {cluster:#018x}: point this node at its own directory"
    )]
    OtherIdentity {
        /// The file that says so.
        file: PathBuf,
        /// The node it was made for.
        found_node: u64,
        /// The cluster it was made for.
        found_cluster: u64,
        /// The node that was to open it.
        node: u64,
        /// That node's cluster.
        cluster: u64,
    },

    /// Another version of this program wrote the file.
    #[error(
        "{file} has format version {found}, and this program reads version {supported}: run a \
         program of the version that wrote it"
    )]
    OtherVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },

    /// A file is damaged where it was known to be durable. Nothing of it is used: what cannot be
    /// read may have been promised to others.
    #[error("{file} is damaged at byte {offset}: {what}; {next}", next = DAMAGED)]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: String,
    },

    /// A file that others prove to have existed is not there.
    #[error("{file} is missing: {what}; {next}", next = DAMAGED)]
    Missing {
        /// The file, or the first of those that are missing.
        file: PathBuf,
        /// What proves that it existed.
        what: String,
    },

    /// The log begins after what the newest intact snapshot includes.
    #[error(
        "{file} is missing or damaged, and the log in its place begins only after entry \
         {log_begins_after}, while the newest intact snapshot ends with {snapshot}; {next}",
        next = DAMAGED
    )]
    Gap {
        /// The snapshot that is needed.
        file: PathBuf,
        /// The newest intact one; [`LogId::ZERO`] if there is none.
        snapshot: LogId,
        /// The last entry that the log no longer has.
        log_begins_after: LogIndex,
    },

    /// No space. Nothing was changed, and the same call may be made again once there is some.
    #[error("no space left to {action} {file}: free some; nothing was lost")]
    NoSpace {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// The system refused.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The log failed earlier, and what the disk holds of it is unknown until it is read anew.
    #[error("the log stopped when it {failure}: end this process; a restart reads the disk anew")]
    Poisoned {
        /// The failure that poisoned it.
        failure: String,
    },

    /// A sync of a snapshot, or of its directory, failed earlier. Whatever a later one answers, the
    /// disk is not to be trusted with the log either.
    #[error(
        "a sync of {file} failed earlier ({failure}): end this process; a restart reads the disk \
         anew"
    )]
    SyncFailed {
        /// What was synced.
        file: PathBuf,
        /// What the system said.
        failure: String,
    },

    /// A snapshot is larger than this node accepts.
    #[error("snapshot {id} is over the limit of {limit_bytes} bytes; raise the limit, or ask why")]
    SnapshotTooLarge {
        /// The snapshot.
        id: LogId,
        /// The limit.
        limit_bytes: u64,
    },
}

impl StorageError {
    /// The error of a system call: out of space, or another.
    pub(crate) fn io(action: &'static str, file: PathBuf, source: io::Error) -> Self {
        if is_full(&source) {
            Self::NoSpace {
                action,
                file,
                source,
            }
        } else {
            Self::Io {
                action,
                file,
                source,
            }
        }
    }

    /// Whether the same call may succeed once there is space again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}
