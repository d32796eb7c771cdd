//! Whose directory this is: the `IDENTITY` file.
//!
//! ```text
//! raft data directory
//! format 1
//! node 3
//! cluster 0x00000000deadbeef
//! crc32c 0x9bb5cf4a
//! ```
//!
//! Text, so that an operator can read it; the checksum covers the lines before its own. It is
//! written last when a directory is first set up, and so also says that the rest is there.

use std::path::Path;

use crate::core::NodeId;

use super::disk::Disk;
use super::sealed_text::{self, hex, unseal};
use super::{FORMAT_VERSION, StorageError};

pub(super) const FILE: &str = "IDENTITY";
const TITLE: &str = "raft data directory";

/// Whose directory this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The cluster: a number that all its nodes share and no other cluster has.
    pub cluster: u64,
}

impl Identity {
    /// Whether the directory says that it is this node's; `false` if it says nothing.
    pub(super) fn is_recorded(self, disk: &dyn Disk) -> Result<bool, StorageError> {
        match Self::recorded(disk)? {
            Some(found) => self
                .check(found, || disk.locate(Path::new(FILE)))
                .map(|()| true),
            None => Ok(false),
        }
    }

    /// Whose directory it says that it is, if it says anything.
    pub(super) fn recorded(disk: &dyn Disk) -> Result<Option<Self>, StorageError> {
        let Some(content) = sealed_text::read(disk, FILE)? else {
            return Ok(None);
        };
        match parse(&content) {
            None => Err(sealed_text::damaged(disk, FILE)),
            Some((FORMAT_VERSION, found)) => Ok(found),
            Some((found, _)) => Err(StorageError::OtherVersion {
                file: disk.locate(Path::new(FILE)),
                found,
                supported: FORMAT_VERSION,
            }),
        }
    }

    /// Refuses what was made for somebody else.
    pub(super) fn check(
        self,
        found: Self,
        file: impl FnOnce() -> std::path::PathBuf,
    ) -> Result<(), StorageError> {
        if found == self {
            return Ok(());
        }
        Err(StorageError::OtherIdentity {
            file: file(),
            found_node: found.node.get(),
            found_cluster: found.cluster,
            node: self.node.get(),
            cluster: self.cluster,
        })
    }

    /// Writes the file; it is there whole, or not at all.
    pub(super) fn record(self, disk: &dyn Disk) -> Result<(), StorageError> {
        sealed_text::write(disk, FILE, &lines(FORMAT_VERSION, self))
    }
}

fn lines(version: u32, identity: Identity) -> String {
    let Identity { node, cluster } = identity;
    format!("{TITLE}\nformat {version}\nnode {node}\ncluster {cluster:#018x}\n")
}

/// The version, and the identity if this version's lines follow; `None` for a damaged file.
fn parse(content: &[u8]) -> Option<(u32, Option<Identity>)> {
    let mut lines = unseal(content)?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let version: u32 = lines.next()?.strip_prefix("format ")?.parse().ok()?;
    if version != FORMAT_VERSION {
        return Some((version, None));
    }
    let node = NodeId::new(lines.next()?.strip_prefix("node ")?.parse().ok()?);
    let cluster = hex(lines.next()?, "cluster 0x")?;
    Some((version, Some(Identity { node, cluster })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sealed_text::seal;

    #[test]
    fn text_comes_back_and_no_changed_byte_does() {
        let identity = Identity {
            node: NodeId::new(3),
            cluster: 0xdead_beef,
        };
        let text = seal(&lines(FORMAT_VERSION, identity));
        assert_eq!(
            parse(text.as_bytes()),
            Some((FORMAT_VERSION, Some(identity))),
            "{text}"
        );

        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                // A hex digit's case carries nothing.
                let same = String::from_utf8_lossy(&bytes).eq_ignore_ascii_case(&text);
                assert!(parse(&bytes).is_none() || same, "byte {at} bit {bit}");
            }
            assert_eq!(parse(&text.as_bytes()[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn newer_version_is_recognised_whatever_its_lines() {
        let identity = Identity {
            node: NodeId::new(3),
            cluster: 1,
        };
        let newer = seal(&lines(FORMAT_VERSION + 1, identity));
        assert_eq!(parse(newer.as_bytes()), Some((FORMAT_VERSION + 1, None)));
    }
}
