//! With which members a directory was set up: the `MEMBERS` file.
//!
//! ```text
//! raft first members
//! voter 0 127.0.0.1:29016
//! voter 1 127.0.0.1:29017
//! voter 2 127.0.0.1:29018
//! crc32c 0x2c6a3d11
//! ```
//!
//! Until the log or a snapshot says otherwise, these are who votes. Were it whoever the cluster file
//! lists today, an operator who deletes two of five lines would make two of the other three a
//! majority, of which none need have what the five agreed upon.

use super::StorageError;
use super::disk::Disk;
use super::sealed_text::{damaged, read, unseal, write};
use crate::core::{Membership, NodeId};

const FILE: &str = "MEMBERS";
const TITLE: &str = "raft first members";

/// The members that `disk`, a node's directory that is open, was set up with: `listed`, when this is
/// called first. Later only their addresses are taken from `listed`, as far as they are in it.
///
/// # Errors
/// [`StorageError`]: the file is damaged, cannot be read or not be written.
pub fn first_members(disk: &dyn Disk, listed: &Membership) -> Result<Membership, StorageError> {
    let Some(content) = read(disk, FILE)? else {
        write(disk, FILE, &format(listed))?;
        return Ok(listed.clone());
    };
    let first = parse(&content).ok_or_else(|| damaged(disk, FILE))?;
    let current = first.into_iter().map(|(node, address)| {
        let listed = listed.addresses().get(&node).cloned();
        (node, listed.unwrap_or(address))
    });
    Membership::of_voters(current).map_err(|_| damaged(disk, FILE))
}

/// Who voted when `disk` was set up, where it says so.
pub(super) fn first_voters(disk: &dyn Disk) -> Result<Option<Vec<NodeId>>, StorageError> {
    let Some(content) = read(disk, FILE)? else {
        return Ok(None);
    };
    let first = parse(&content).ok_or_else(|| damaged(disk, FILE))?;
    Ok(Some(first.into_iter().map(|(node, _)| node).collect()))
}

fn format(members: &Membership) -> String {
    let voters = members.voters().iter().map(|node| {
        let address = members.addresses().get(node).map_or("", String::as_str);
        format!("voter {node} {address}\n")
    });
    std::iter::once(format!("{TITLE}\n"))
        .chain(voters)
        .collect()
}

fn parse(content: &[u8]) -> Option<Vec<(NodeId, String)>> {
    let mut lines = unseal(content)?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    lines
        .map(|line| {
            let (node, address) = line.strip_prefix("voter ")?.split_once(' ')?;
            Some((NodeId::new(node.parse().ok()?), address.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::storage::sim_disk::SimDisk;

    fn members(nodes: &[(u64, &str)]) -> Membership {
        let voters = nodes
            .iter()
            .map(|&(node, address)| (NodeId::new(node), address.to_owned()));
        Membership::of_voters(voters).unwrap()
    }

    #[test]
    fn voters_stay_whatever_is_listed_later_and_move_where_it_says() {
        let disk = SimDisk::new();
        let five = members(&[(0, "a:1"), (1, "b:1"), (2, "c:1"), (3, "d:1"), (4, "e:1")]);
        assert_eq!(first_members(&disk, &five).unwrap(), five);
        let three = members(&[(0, "a:1"), (1, "moved:2"), (7, "new:1")]);
        let expected = members(&[
            (0, "a:1"),
            (1, "moved:2"),
            (2, "c:1"),
            (3, "d:1"),
            (4, "e:1"),
        ]);
        assert_eq!(first_members(&disk, &three).unwrap(), expected);
    }

    /// One that joins a cluster was told of nobody, and stays so.
    #[test]
    fn nobody_is_remembered_too() {
        let disk = SimDisk::new();
        let nobody = Membership::default();
        assert_eq!(first_members(&disk, &nobody).unwrap(), nobody);
        let listed = members(&[(0, "a:1")]);
        assert_eq!(first_members(&disk, &listed).unwrap(), nobody);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let disk = SimDisk::new();
        first_members(&disk, &members(&[(0, "a:1")])).unwrap();
        let content = disk.read(Path::new(FILE)).unwrap();
        for at in 0..content.len() {
            let mut spoilt = content.clone();
            spoilt[at] ^= 1;
            disk.create(Path::new(FILE))
                .unwrap()
                .write_all_at(&spoilt, 0)
                .unwrap();
            let outcome = first_members(&disk, &members(&[(0, "a:1")]));
            assert!(
                matches!(outcome, Err(StorageError::Corrupt { .. })),
                "byte {at}: {outcome:?}"
            );
        }
    }
}
