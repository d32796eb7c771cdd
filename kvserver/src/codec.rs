//! The bytes of a [`Command`] in a log entry. The one place that knows bincode.
//!
//! ```text
//! entry = version (1 byte: 1) | bincode(Command)
//! ```
//!
//! bincode's standard configuration: integers as little-endian varints, an enum's variant as a
//! varint, byte strings behind a varint length. Drawn field by field in `docs/store.md`.
//!
//! An entry of another version stops the node that meets it: it cannot apply what the others can, and
//! to skip it would make its state differ from theirs.

use bytes::Bytes;

use crate::command::Command;

/// The format that [`encode`] writes, and the only one that [`decode`] reads.
pub const FORMAT_VERSION: u8 = 1;

/// The longest encoded command: a request's largest body (64 MiB) and what surrounds it here.
pub const MAX_COMMAND_BYTES: usize = (64 << 20) + (64 << 10);

/// bincode counts a varint as its widest form, so its own limit needs room for a few of them.
const BINCODE_LIMIT: usize = MAX_COMMAND_BYTES + 1024;

/// At least as much as everything in a command but its byte strings: the version, two variants, and six
/// integers of at most 9 bytes (log time, three of a writer's, two lengths).
const FIXED_PART_BYTES: usize = 64;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BINCODE_LIMIT>()
}

/// The command as a log entry holds it.
///
/// # Errors
/// [`EncodeError::TooLong`] for a command that [`decode`] would refuse.
#[expect(
    clippy::missing_panics_doc,
    reason = "neither can happen, whatever the command"
)]
pub fn encode(command: &Command) -> Result<Bytes, EncodeError> {
    let bytes = FIXED_PART_BYTES + byte_string_bytes(command);
    if bytes > MAX_COMMAND_BYTES {
        return Err(EncodeError::TooLong { bytes });
    }
    let mut entry = Vec::with_capacity(bytes);
    entry.push(FORMAT_VERSION);
    bincode::serde::encode_into_std_write(command, &mut entry, config())
        .expect("a Vec takes any write, and bincode encodes every field of a Command");
    assert!(
        entry.len() <= bytes,
        "FIXED_PART_BYTES covers the fixed part"
    );
    Ok(entry.into())
}

/// Reads an entry back. What it returns owns its memory: nothing points into `entry`.
///
/// No byte string is longer than the input, so no input can make it reserve more than it brings.
///
/// # Errors
/// [`DecodeError`], for whatever bytes are no command of this version.
pub fn decode(entry: &[u8]) -> Result<Command, DecodeError> {
    if entry.len() > MAX_COMMAND_BYTES {
        return Err(DecodeError::TooLong { bytes: entry.len() });
    }
    let (&version, body) = entry.split_first().ok_or(DecodeError::Empty)?;
    if version != FORMAT_VERSION {
        return Err(DecodeError::UnknownVersion { version });
    }
    let (command, used) = bincode::serde::borrow_decode_from_slice(body, config())
        .map_err(|source| DecodeError::Malformed(Box::new(source)))?;
    if used != body.len() {
        return Err(DecodeError::TrailingBytes {
            bytes: body.len() - used,
        });
    }
    Ok(command)
}

/// A command too long for the log.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than [`MAX_COMMAND_BYTES`].
    #[error("command of {bytes} bytes is over the limit of {MAX_COMMAND_BYTES}")]
    TooLong {
        /// Its encoded length, or a little more.
        bytes: usize,
    },
}

/// Why a log entry is no command. The node that meets one must stop applying.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a newer (or a much older) node: this one cannot know what it asks.
    #[error("command of format version {version}; this node reads version {FORMAT_VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// Not even a version.
    #[error("command of no bytes")]
    Empty,
    /// Longer than [`MAX_COMMAND_BYTES`].
    #[error("command of {bytes} bytes is over the limit of {MAX_COMMAND_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Of the right version, but broken.
    #[error("malformed command")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A command, and something after it.
    #[error("{bytes} bytes after the end of the command")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
}

/// How many bytes of `command` are its byte strings: spares [`encode`] the copies of a growing buffer.
fn byte_string_bytes(command: &Command) -> usize {
    use crate::command::{Op, Writer};

    let writer = match &command.writer {
        Writer::None | Writer::Session { .. } => 0,
        Writer::Legacy { client, .. } => client.len(),
    };
    let op = match &command.op {
        Op::OpenSession => 0,
        Op::BeginLegacy { client } => client.len(),
        Op::Put { key, value } | Op::Append { key, value } => key.len() + value.len(),
    };
    writer + op
}

/// serde for [`Bytes`]: borrowed from the input while decoding, then copied once, exactly as long as it is.
/// A key kept in the store for years must not keep the network buffer that it came in.
pub(crate) mod owned_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        deserializer.deserialize_bytes(CopyBytes)
    }

    struct CopyBytes;

    impl Visitor<'_> for CopyBytes {
        type Value = Bytes;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a byte string")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::Writer;
    use crate::test_kit::{any_command, append, at, legacy, put, session};

    /// The format, byte by byte: a change of it needs another version.
    #[test]
    fn the_bytes_are_those_of_version_1() {
        let cases: [(Command, &[u8]); 4] = [
            (
                at(5, Writer::None, crate::Op::OpenSession),
                b"\x01\x05\x00\x00",
            ),
            (
                at(251, session(7, 300, 1), put("k", "vw")),
                b"\x01\xfb\xfb\x00\x01\x07\xfb\x2c\x01\x01\x02\x01k\x02vw",
            ),
            (
                at(0, legacy("cl", 2), append("", "v")),
                b"\x01\x00\x02\x02cl\x02\x03\x00\x01v",
            ),
            (
                Command::begin_legacy(crate::LogTime::ZERO, Bytes::from("c")),
                b"\x01\x00\x00\x01\x01c",
            ),
        ];
        for (command, bytes) in cases {
            assert_eq!(encode(&command).unwrap(), bytes, "{command:?}");
            assert_eq!(decode(bytes).unwrap(), command);
        }
    }

    #[test]
    fn another_version_is_named() {
        for version in [0, 2, 255] {
            let refused = decode(&[version, 0, 0, 0]).unwrap_err();
            assert!(
                matches!(refused, DecodeError::UnknownVersion { version: found } if found == version),
                "{refused}"
            );
        }
        assert!(matches!(decode(&[]), Err(DecodeError::Empty)));
    }

    #[test]
    fn unknown_variants_and_trailing_bytes_are_refused() {
        let unknown_op = decode(b"\x01\x00\x00\x04").unwrap_err();
        assert!(
            matches!(unknown_op, DecodeError::Malformed(_)),
            "{unknown_op}"
        );
        let trailing = decode(b"\x01\x00\x00\x00\x00").unwrap_err();
        assert!(
            matches!(trailing, DecodeError::TrailingBytes { bytes: 1 }),
            "{trailing}"
        );
    }

    /// A length of nearly 2^64, and one within the limit: neither reserves what it claims.
    #[test]
    fn a_claimed_length_reserves_nothing() {
        for claim in [u64::MAX, 60 << 20] {
            let mut entry = b"\x01\x00\x00\x02\xfd".to_vec();
            entry.extend(claim.to_le_bytes());
            assert!(matches!(decode(&entry), Err(DecodeError::Malformed(_))));
        }
    }

    #[test]
    fn what_is_too_long_is_refused_on_both_sides() {
        let command = |bytes: usize| Command {
            op: crate::Op::Put {
                key: Bytes::new(),
                value: Bytes::from(vec![0; bytes]),
            },
            ..at(0, Writer::None, crate::Op::OpenSession)
        };
        let longest = command(MAX_COMMAND_BYTES - FIXED_PART_BYTES);
        assert!(decode(&encode(&longest).unwrap()).unwrap() == longest);
        assert!(encode(&command(MAX_COMMAND_BYTES - FIXED_PART_BYTES + 1)).is_err());
        let entry = vec![FORMAT_VERSION; MAX_COMMAND_BYTES + 1];
        assert!(matches!(decode(&entry), Err(DecodeError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn commands_come_back_and_own_their_memory(command in any_command()) {
            let entry = encode(&command).unwrap();
            let decoded = decode(&entry).unwrap();
            prop_assert_eq!(&decoded, &command);
            if let crate::Op::Put { key, value } = &decoded.op {
                let buffer = entry.as_ptr_range();
                prop_assert!(!buffer.contains(&key.as_ptr()) && !buffer.contains(&value.as_ptr()));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = decode(&[&[FORMAT_VERSION], &bytes[..]].concat());
        }

        /// A broken command is refused, or is another command in full.
        #[test]
        fn a_changed_byte_never_panics(
            command in any_command(),
            place in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut entry = encode(&command).unwrap().to_vec();
            prop_assert!(decode(&entry[..cut.index(entry.len())]).is_err());
            let place = place.index(entry.len());
            entry[place] = byte;
            if let Ok(other) = decode(&entry) {
                prop_assert_eq!(decode(&encode(&other).unwrap()).unwrap(), other);
            }
        }
    }
}
