use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SEED: Seed = Seed(0x1234_5678);

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>()).prop_map(|(t, i)| LogId::new(Term::new(t), LogIndex::new(i)))
}

fn record() -> impl Strategy<Value = Record> {
    let state = (any::<u64>(), any::<Option<u64>>()).prop_map(|(term, vote)| HardState {
        current_term: Term::new(term),
        voted_for: vote.map(NodeId::new),
    });
    let payload = prop_oneof![
        Just(Payload::Empty),
        prop::collection::vec(any::<u8>(), 0..100)
            .prop_map(|command| Payload::Command(Bytes::from(command))),
    ];
    prop_oneof![
        state.prop_map(Record::HardState),
        log_id().prop_map(Record::Reset),
        any::<u64>().prop_map(|index| Record::Truncate(LogIndex::new(index))),
        (log_id(), payload).prop_map(|(id, payload)| Record::Entry(Entry { id, payload })),
        (log_id(), log_id()).prop_map(|(snapshot, drop_upto)| Record::Compaction(Compaction {
            snapshot,
            drop_upto
        })),
        Just(Record::Synced),
    ]
}

/// A segment whose records begin after `base` zeros.
fn encode(records: &[Record], base: usize, seed: Seed) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut encoder = Encoder {
        buffer: &mut buffer,
        seed,
        base,
        synced: 99,
    };
    for record in records {
        match record {
            Record::HardState(state) => encoder.hard_state(*state),
            Record::Reset(to) => encoder.reset(*to),
            Record::Truncate(from) => encoder.truncate(*from),
            Record::Entry(entry) => encoder.entry(entry),
            Record::Compaction(compaction) => encoder.compaction(*compaction),
            Record::Synced => encoder.synced(),
        }
    }
    let mut segment = vec![0; base];
    segment.extend_from_slice(&buffer);
    segment
}

fn decode_all(segment: &[u8], mut offset: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while let Ok(decoded) = decode(segment, offset, SEED) {
        assert_eq!(decoded.synced, 99);
        assert!(decoded.next > offset && decoded.next <= segment.len());
        offset = decoded.next;
        records.push(decoded.record);
    }
    records
}

proptest! {
    /// The original's defect 2 and failure 96: what is read is what was written, blanks,
    /// zeros and all.
    #[test]
    fn records_come_back(records in prop::collection::vec(record(), 0..8), base in 0..300usize) {
        prop_assert_eq!(decode_all(&encode(&records, base, SEED), base), records);
    }

    /// Failure 63.
    #[test]
    fn cut_anywhere_they_come_back_up_to_the_cut(
        records in prop::collection::vec(record(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let segment = encode(&records, 0, SEED);
        let found = decode_all(&segment[..cut.index(segment.len())], 0);
        prop_assert!(found.len() < records.len());
        prop_assert_eq!(&found[..], &records[..found.len()]);
    }

    /// Failure 65.
    #[test]
    fn no_bit_changes_unnoticed(record in record(), bit in any::<prop::sample::Index>()) {
        let mut segment = encode(&[record], 64, SEED);
        let bit = 64 * 8 + bit.index((segment.len() - 64) * 8);
        segment[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&segment, 64, SEED).is_err());
    }

    /// A record in another place, or another segment's, is none.
    #[test]
    fn record_counts_only_where_it_was_written(record in record(), shift in 1..64usize) {
        let segment = encode(std::slice::from_ref(&record), 64, SEED);
        prop_assert!(decode(&segment, 64, SEED).is_ok());
        prop_assert!(decode(&segment[shift..], 64 - shift, SEED).is_err());
        prop_assert!(decode(&segment, 64, Seed(SEED.0 ^ 1)).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..300usize) {
        prop_assert!(decode(&bytes, at, SEED).is_err());
    }

    /// As above, past the checksums: the bytes of a payload may be anything.
    #[test]
    fn no_payload_makes_it_panic(kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode_payload(kind, &bytes);
    }
}

/// Adjacent zeros are no record: a segment's unwritten rest reads as zeros.
#[test]
fn zeros_are_no_record() {
    for len in [0, 4, 19, 20, 64] {
        assert_eq!(decode(&vec![0; len], 0, SEED).unwrap_err(), Damage::Header);
    }
}
