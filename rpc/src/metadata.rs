//! [`Metadata`]: what travels with a call besides its message.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message;

use crate::wire::{bytes_field_len, put_bytes_field, put_varint, varint_len};

/// Named values that travel in the header of a call or of its reply: credentials, a tenant, a hint.
///
/// Interceptors and handlers read and add them. Keys compare byte by byte; by convention they are
/// lower-case. All of it has to fit into the header, so it is bounded by
/// [`Limits::max_header_bytes`](crate::Limits::max_header_bytes), and to 128 entries. Legacy
/// callers send and get none.
///
/// ```
/// let mut metadata = rpc::Metadata::new();
/// metadata.insert("tenant", "blue");
/// assert_eq!(metadata.get_str("tenant"), Some("blue"));
/// assert_eq!(metadata.get("other"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `None` without entries, as with nearly every call: each call has several of these, and moves
    /// them about, so that is one word to move and to drop.
    #[expect(
        clippy::box_collection,
        reason = "a `Vec` is three words, empty or not"
    )]
    entries: Option<Box<Vec<Entry>>>,
}

type Entry = (Cow<'static, str>, Bytes);

/// One entry as it travels.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct MetadataEntry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

impl Metadata {
    /// No entries. Takes no memory.
    #[must_use]
    pub const fn new() -> Metadata {
        Metadata { entries: None }
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_none()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    fn entries(&self) -> &[Entry] {
        self.entries.as_ref().map_or(&[], |entries| entries)
    }

    fn push(&mut self, entry: Entry) {
        self.entries.get_or_insert_default().push(entry);
    }

    /// Sets `key` to `value`, in place of the value that it had: of all of them, if a peer sent
    /// several.
    pub fn insert(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        let first = self.entries().iter().position(|(known, _)| *known == key);
        let (Some(entries), Some(first)) = (&mut self.entries, first) else {
            return self.push((key, value));
        };
        entries[first].1 = value;
        let mut at = 0..;
        entries.retain(|(known, _)| at.next() <= Some(first) || *known != key);
    }

    /// The value of `key`; the last one, if a peer sent several.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let (_, value) = self.entries().iter().rfind(|(known, _)| known == key)?;
        Some(value)
    }

    /// The value of `key`, if it has one and that is UTF-8.
    #[must_use]
    pub fn get_str(&self, key: &str) -> Option<&str> {
        str::from_utf8(self.get(key)?).ok()
    }

    /// The entries, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let entries = self.entries().iter();
        entries.map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Adds what arrived, without a search.
    pub(crate) fn add(&mut self, entry: MetadataEntry) {
        self.push((Cow::Owned(entry.key), entry.value));
    }

    /// Bytes that the entries take in a header, each with a tag of one byte.
    pub(crate) fn encoded_len(&self) -> usize {
        let entries = self.entries().iter();
        entries
            .map(|(key, value)| {
                let len = entry_len(key, value);
                1 + varint_len(len as u64) + len
            })
            .sum()
    }

    /// Appends the entries as the repeated message field whose tag byte is `tag`.
    pub(crate) fn put(&self, out: &mut Vec<u8>, tag: u8) {
        for (key, value) in self.entries() {
            out.push(tag);
            put_varint(out, entry_len(key, value) as u64);
            put_bytes_field(out, 0x0a, key.as_bytes());
            put_bytes_field(out, 0x12, value);
        }
    }
}

fn entry_len(key: &str, value: &[u8]) -> usize {
    bytes_field_len(key.len()) + bytes_field_len(value.len())
}

impl<K: Into<Cow<'static, str>>, V: Into<Bytes>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Metadata {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.insert(key, value);
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_holds_its_last_value_and_keeps_its_place() {
        let mut metadata = Metadata::from_iter([("a", "1"), ("b", "2")]);
        metadata.insert("a".to_owned(), vec![0xff]);
        let entries: Vec<_> = metadata.iter().collect();
        assert_eq!(entries, [("a", &[0xff][..]), ("b", &b"2"[..])]);
        assert_eq!(metadata.get_str("a"), None, "it is no UTF-8");
        assert_eq!((metadata.len(), metadata.get_str("b")), (2, Some("2")));
        metadata.add(MetadataEntry {
            key: "b".to_owned(),
            value: "3".into(),
        });
        assert_eq!(metadata.get_str("b"), Some("3"));
        metadata.insert("b", "4");
        let entries: Vec<_> = metadata.iter().collect();
        assert_eq!(
            entries,
            [("a", &[0xff][..]), ("b", &b"4"[..])],
            "all are gone"
        );
    }
}
