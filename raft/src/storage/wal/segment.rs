//! A segment's name and its header.
//!
//! ```text
//!   0  "RAFTWAL\0"
//!   8  u32  format version
//!  12  u32  0
//!  16  u64  number of this segment
//!  24  u64  node id
//!  32  u64  cluster id
//!  40  u64  where the previous segment's records end; 0 in the first segment
//!  48  u64  current term, u64 whether a vote was given, u64 to whom
//!  72  u64 index, u64 term  last entry that the durable snapshot includes
//!  88  u64 index, u64 term  last entry that may be dropped
//! 104  u64  index of the log's last entry
//! 112  [0; 12]
//! 124  u32  CRC-32C of bytes 0..124
//! 128  records
//! ```
//!
//! The copy of term, vote and compaction is what the older segments added up to, so that those can
//! go. Where they are still there, replay holds it against them.

use std::path::{Path, PathBuf};

use crate::core::{Compaction, HardState, LogIndex, NodeId};
use crate::storage::Identity;
use crate::storage::record::{
    hard_state_at, log_id_at, put_hard_state, put_log_id, put_u64, u32_at, u64_at,
};

pub(super) const DIR: &str = "wal";
pub(super) const HEADER_BYTES: usize = 128;

const MAGIC: &[u8; 8] = b"RAFTWAL\0";
const SUFFIX: &str = ".wal";

/// What a segment says of itself and of everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) version: u32,
    pub(super) number: u64,
    pub(super) identity: Identity,
    pub(super) previous_end: u64,
    pub(super) summary: Summary,
}

/// What the records up to some place add up to, besides the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) hard_state: HardState,
    pub(super) compaction: Compaction,
    /// The log's last entry; what the compaction names, if there is none.
    pub(super) last_index: LogIndex,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        put_u64(&mut bytes, self.number);
        put_u64(&mut bytes, self.identity.node.get());
        put_u64(&mut bytes, self.identity.cluster);
        put_u64(&mut bytes, self.previous_end);
        put_hard_state(&mut bytes, self.summary.hard_state);
        put_log_id(&mut bytes, self.summary.compaction.snapshot);
        put_log_id(&mut bytes, self.summary.compaction.drop_upto);
        put_u64(&mut bytes, self.summary.last_index.get());
        bytes.resize(HEADER_BYTES - 4, 0);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a segment's content; `None` unless every bit of it is right.
    pub(super) fn decode(segment: &[u8]) -> Option<Self> {
        let bytes = segment.get(..HEADER_BYTES)?;
        if crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) != u32_at(bytes, HEADER_BYTES - 4)
            || bytes[..8] != *MAGIC
        {
            return None;
        }
        Some(Self {
            version: u32_at(bytes, 8),
            number: u64_at(bytes, 16),
            identity: Identity {
                node: NodeId::new(u64_at(bytes, 24)),
                cluster: u64_at(bytes, 32),
            },
            previous_end: u64_at(bytes, 40),
            summary: Summary {
                hard_state: hard_state_at(bytes, 48)?,
                compaction: Compaction {
                    snapshot: log_id_at(bytes, 72),
                    drop_upto: log_id_at(bytes, 88),
                },
                last_index: LogIndex::new(u64_at(bytes, 104)),
            },
        })
    }
}

pub(super) fn path(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:016}{SUFFIX}"))
}

/// The number in a file's name; `None` for a file that is no segment.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = digits.parse().ok()?;
    (format!("{number:016}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{LogId, Term};

    #[test]
    fn header_comes_back_and_no_changed_bit_does() {
        let id = |term, index| LogId::new(Term::new(term), LogIndex::new(index));
        let header = SegmentHeader {
            version: 1,
            number: 7,
            identity: Identity {
                node: NodeId::new(2),
                cluster: 9,
            },
            previous_end: 8_000,
            summary: Summary {
                hard_state: HardState {
                    current_term: Term::new(4),
                    voted_for: Some(NodeId::new(0)),
                },
                compaction: Compaction {
                    snapshot: id(3, 50),
                    drop_upto: id(2, 40),
                },
                last_index: LogIndex::new(60),
            },
        };
        let mut bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&bytes), Some(header));
        for bit in 0..HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn names_are_numbers_of_sixteen_digits() {
        let name = path(42).file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(number(&name), Some(42));
        for other in [
            "",
            ".wal",
            "42.wal",
            "+000000000000042.wal",
            "0000000000000042.wal.old",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
