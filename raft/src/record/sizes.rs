//! Commands and chunks of snapshots as their sizes: the core looks at nothing else, a record stays
//! small, and nobody's keys and values leave the node in a bug report.

use std::sync::OnceLock;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

/// The longest command that a record may have; the store's own bound is half of that.
const MAX_BYTES: usize = 128 << 20;

pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.len() as u64)
}

/// So many zeros. All of them share one allocation, which nobody ever touches.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    static ZEROS: OnceLock<Bytes> = OnceLock::new();

    let bytes = u64::deserialize(deserializer)?;
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes > MAX_BYTES {
        return Err(D::Error::custom("a command longer than any"));
    }
    let zeros = ZEROS.get_or_init(|| vec![0; MAX_BYTES].into());
    Ok(zeros.slice(..bytes))
}
