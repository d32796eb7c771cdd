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
