//! The records of the write-ahead log, byte for byte (drawn in `docs/storage.md`).
//!
//! ```text
//!  0  u32  header checksum   CRC-32C of: the segment's seed, the record's offset, bytes 4..20
//!  4  u32  payload length
//!  8  u32  payload checksum  CRC-32C of the payload
//! 12  u32  synced            the segment was durable up to this offset when this was written
//! 16  u8   kind
//! 17  [0; 3]
//! 20  payload
//! ```
//!
//! Numbers are little-endian. The header's checksum covers where the record belongs (cluster,
//! node, segment, offset), so neither a stale record nor one that a disk put in the wrong place
//! passes for this one; through the payload's checksum it covers the payload too. A damaged header
//! hides where the next record starts; as every header proves itself, replay finds it by looking
//! at every byte. `synced` is what lets replay tell a torn write from damage: see
//! [`replay`](super::wal).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::Identity;
use crate::core::{Compaction, Entry, HardState, LogId, LogIndex, NodeId, Payload, Term};
use crate::membership_codec;

/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 20;

/// What distinguishes the checksums of one segment's records from those of all others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(identity: Identity, segment: u64) -> Self {
        let mut bytes = Vec::with_capacity(24);
        put_u64(&mut bytes, identity.cluster);
        put_u64(&mut bytes, identity.node.get());
        put_u64(&mut bytes, segment);
        Self(crc32c::crc32c(&bytes))
    }

    fn header_checksum(self, offset: usize, covered: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.0, &(offset as u64).to_le_bytes());
        crc32c::crc32c_append(crc, covered)
    }
}

/// One thing that happened to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Term and vote are these from here on.
    HardState(HardState),
    /// A snapshot replaced the log.
    Reset(LogId),
    /// The entries from here on are forgotten.
    Truncate(LogIndex),
    /// The log's next entry.
    Entry(Entry),
    /// A snapshot is durable, and part of the log may go.
    Compaction(Compaction),
    /// Nothing but a header, for the sake of its `synced`: written after each sync.
    Synced,
}

const KIND_HARD_STATE: u8 = 1;
const KIND_RESET: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_EMPTY: u8 = 4;
const KIND_COMMAND: u8 = 5;
const KIND_COMPACTION: u8 = 6;
const KIND_SYNCED: u8 = 7;
const KIND_MEMBERSHIP: u8 = 8;

/// Appends records to a buffer that will be written to a segment at `base`.
pub(crate) struct Encoder<'a> {
    pub(crate) buffer: &'a mut Vec<u8>,
    pub(crate) seed: Seed,
    /// Offset in the segment at which the buffer's first byte will stand.
    pub(crate) base: usize,
    /// Offset up to which the segment is durable.
    pub(crate) synced: u32,
}

impl Encoder<'_> {
    pub(crate) fn hard_state(&mut self, state: HardState) {
        self.record(KIND_HARD_STATE, |payload| put_hard_state(payload, state));
    }

    pub(crate) fn reset(&mut self, to: LogId) {
        self.record(KIND_RESET, |payload| put_log_id(payload, to));
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.record(KIND_TRUNCATE, |payload| put_u64(payload, from.get()));
    }

    pub(crate) fn entry(&mut self, entry: &Entry) {
        let (kind, content): (u8, Cow<'_, [u8]>) = match &entry.payload {
            Payload::Empty => (KIND_EMPTY, Cow::default()),
            Payload::Command(command) => (KIND_COMMAND, Cow::Borrowed(command)),
            Payload::Membership(membership) => {
                let bytes = membership_codec::encode(membership);
                (KIND_MEMBERSHIP, Cow::Owned(bytes))
            }
        };
        self.record(kind, |payload| {
            put_log_id(payload, entry.id);
            payload.extend_from_slice(&content);
        });
    }

    pub(crate) fn compaction(&mut self, compaction: Compaction) {
        self.record(KIND_COMPACTION, |payload| {
            put_log_id(payload, compaction.snapshot);
            put_log_id(payload, compaction.drop_upto);
        });
    }

    pub(crate) fn synced(&mut self) {
        self.record(KIND_SYNCED, |_| {});
    }

    fn record(&mut self, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        let payload_start = start + RECORD_HEADER_BYTES;
        self.buffer.resize(payload_start, 0);
        payload(self.buffer);

        let length = u32::try_from(self.buffer.len() - payload_start)
            .expect("the core bounds a batch far below 4 GiB");
        let checksum = crc32c::crc32c(&self.buffer[payload_start..]);
        let header = &mut self.buffer[start..payload_start];
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..12].copy_from_slice(&checksum.to_le_bytes());
        header[12..16].copy_from_slice(&self.synced.to_le_bytes());
        header[16] = kind;
        let checksum = self.seed.header_checksum(self.base + start, &header[4..]);
        header[0..4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A record's header that proved to be one, in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) synced: u32,
    payload_bytes: usize,
    payload_checksum: u32,
    kind: u8,
}

impl Header {
    /// Reads the header at `offset` of a segment's content; `None` unless every bit of it is right.
    pub(crate) fn at(segment: &[u8], offset: usize, seed: Seed) -> Option<Self> {
        let bytes = segment.get(offset..)?.get(..RECORD_HEADER_BYTES)?;
        let kind = bytes[16];
        // First what is cheap: replay may ask this at every byte of a segment.
        if !(KIND_HARD_STATE..=KIND_MEMBERSHIP).contains(&kind) || bytes[17..] != [0; 3] {
            return None;
        }
        if u32_at(bytes, 0) != seed.header_checksum(offset, &bytes[4..]) {
            return None;
        }
        Some(Self {
            synced: u32_at(bytes, 12),
            payload_bytes: u32_at(bytes, 4) as usize,
            payload_checksum: u32_at(bytes, 8),
            kind,
        })
    }
}

/// A record and where the next one starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) record: Record,
    pub(crate) synced: u32,
    pub(crate) next: usize,
}

/// Reads the record at `offset` of a segment's content. Copies the command, so that the segment
/// need not stay in memory for it; allocates nothing beyond what is there.
///
/// # Errors
/// [`Damage`], whatever the bytes.
pub(crate) fn decode(segment: &[u8], offset: usize, seed: Seed) -> Result<Decoded, Damage> {
    let header = Header::at(segment, offset, seed).ok_or(Damage::Header)?;
    let payload = segment
        .get(offset + RECORD_HEADER_BYTES..)
        .and_then(|rest| rest.get(..header.payload_bytes))
        .ok_or(Damage::CutOff)?;
    if crc32c::crc32c(payload) != header.payload_checksum {
        return Err(Damage::Payload);
    }
    let record = decode_payload(header.kind, payload).ok_or(Damage::Content)?;
    let next = offset + RECORD_HEADER_BYTES + payload.len();
    Ok(Decoded {
        record,
        synced: header.synced,
        next,
    })
}

fn decode_payload(kind: u8, payload: &[u8]) -> Option<Record> {
    let fixed = match kind {
        KIND_HARD_STATE => HARD_STATE_BYTES,
        KIND_RESET | KIND_EMPTY => 16,
        KIND_TRUNCATE => 8,
        KIND_COMMAND | KIND_MEMBERSHIP => payload.len().max(16),
        KIND_COMPACTION => 32,
        KIND_SYNCED => 0,
        _ => return None,
    };
    if payload.len() != fixed {
        return None;
    }
    Some(match kind {
        KIND_HARD_STATE => Record::HardState(hard_state_at(payload, 0)?),
        KIND_RESET => Record::Reset(log_id_at(payload, 0)),
        KIND_TRUNCATE => Record::Truncate(LogIndex::new(u64_at(payload, 0))),
        KIND_EMPTY => Record::Entry(Entry {
            id: log_id_at(payload, 0),
            payload: Payload::Empty,
        }),
        KIND_COMMAND => Record::Entry(Entry {
            id: log_id_at(payload, 0),
            payload: Payload::Command(Bytes::copy_from_slice(&payload[16..])),
        }),
        KIND_MEMBERSHIP => Record::Entry(Entry {
            id: log_id_at(payload, 0),
            payload: Payload::Membership(Arc::new(membership_codec::decode(&payload[16..]).ok()?)),
        }),
        KIND_COMPACTION => Record::Compaction(Compaction {
            snapshot: log_id_at(payload, 0),
            drop_upto: log_id_at(payload, 16),
        }),
        _ => Record::Synced,
    })
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("no valid record header")]
    Header,
    #[error("the record is longer than the file")]
    CutOff,
    #[error("the record's content does not match its checksum")]
    Payload,
    #[error("the record's checksum is right but its content has no meaning")]
    Content,
}

/// Bytes of a hard state: term, whether a vote was given, to whom.
pub(crate) const HARD_STATE_BYTES: usize = 24;

pub(crate) fn put_hard_state(bytes: &mut Vec<u8>, state: HardState) {
    put_u64(bytes, state.current_term.get());
    put_u64(bytes, u64::from(state.voted_for.is_some()));
    put_u64(bytes, state.voted_for.map_or(0, NodeId::get));
}

pub(crate) fn hard_state_at(bytes: &[u8], at: usize) -> Option<HardState> {
    let voted_for = match u64_at(bytes, at + 8) {
        0 => None,
        1 => Some(NodeId::new(u64_at(bytes, at + 16))),
        _ => return None,
    };
    Some(HardState {
        current_term: Term::new(u64_at(bytes, at)),
        voted_for,
    })
}

pub(crate) fn put_log_id(bytes: &mut Vec<u8>, id: LogId) {
    put_u64(bytes, id.index.get());
    put_u64(bytes, id.term.get());
}

pub(crate) fn log_id_at(bytes: &[u8], at: usize) -> LogId {
    LogId::new(
        Term::new(u64_at(bytes, at + 8)),
        LogIndex::new(u64_at(bytes, at)),
    )
}

pub(crate) fn put_u64(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend_from_slice(&value.to_le_bytes());
}

/// # Panics
/// Unless eight bytes are there: callers check lengths first.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a range of eight"))
}

/// # Panics
/// Unless four bytes are there: callers check lengths first.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a range of four"))
}

#[cfg(test)]
#[path = "record_test.rs"]
mod tests;
