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

use std::io;
use std::path::Path;

use crate::core::NodeId;

use super::disk::Disk;
use super::{FORMAT_VERSION, StorageError};

pub(super) const FILE: &str = "IDENTITY";
const TEMPORARY: &str = "IDENTITY.new";
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
        let file = disk.locate(Path::new(FILE));
        let content = match disk.read(Path::new(FILE)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("read", file, error)),
        };
        match parse(&content) {
            None => Err(StorageError::Corrupt {
                file,
                offset: 0,
                what: "it does not match its checksum".to_owned(),
            }),
            Some((FORMAT_VERSION, found)) => Ok(found),
            Some((found, _)) => Err(StorageError::OtherVersion {
                file,
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
        let write = || {
            let file = disk.create(Path::new(TEMPORARY))?;
            file.write_all_at(format(FORMAT_VERSION, self).as_bytes(), 0)?;
            file.sync_data()?;
            disk.rename(Path::new(TEMPORARY), Path::new(FILE))?;
            disk.sync_dir(Path::new(""))
        };
        write().map_err(|error| StorageError::io("write", disk.locate(Path::new(FILE)), error))
    }
}

fn format(version: u32, identity: Identity) -> String {
    let Identity { node, cluster } = identity;
    let text = format!("{TITLE}\nformat {version}\nnode {node}\ncluster {cluster:#018x}\n");
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {checksum:#010x}\n")
}

/// The version, and the identity if this version's lines follow; `None` for a damaged file.
fn parse(content: &[u8]) -> Option<(u32, Option<Identity>)> {
    let text = std::str::from_utf8(content).ok()?;
    let body_bytes = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (body, last) = text.split_at(body_bytes);
    if hex(last.strip_suffix('\n')?, "crc32c 0x")?
        != u64::from(crc32c::crc32c(content.get(..body_bytes)?))
    {
        return None;
    }
    let mut lines = body.lines();
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

fn hex(line: &str, prefix: &str) -> Option<u64> {
    u64::from_str_radix(line.strip_prefix(prefix)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_and_no_changed_byte_does() {
        let identity = Identity {
            node: NodeId::new(3),
            cluster: 0xdead_beef,
        };
        let text = format(FORMAT_VERSION, identity);
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
        let newer = format(
            FORMAT_VERSION + 1,
            Identity {
                node: NodeId::new(3),
                cluster: 1,
            },
        );
        assert_eq!(parse(newer.as_bytes()), Some((FORMAT_VERSION + 1, None)));
    }
}
