//! The two headers, as prost sees them and as the fast path reads and writes them.
//!
//! The structs define the format (their `.proto` text is in `docs/wire.md`). Every frame carries a
//! header of a few small fields, so the common shape is read in place and written by hand; whatever
//! else protobuf allows (unknown fields, groups, odd varints) goes through prost. Property tests
//! hold the two ways against each other.

use std::borrow::Cow;

use prost::Message;

use super::field::{
    bytes_field_len, put_bytes_field, put_varint_field, take_bytes, take_str, take_u32,
    varint_field_len,
};
use super::frame::FrameError;
use super::kind::{ReplyKind, RequestKind};
use super::limits::METADATA_ENTRIES_MAX;
use super::varint::{MAX_VARINT32_BYTES, take_varint};
use crate::metadata::{Metadata, MetadataEntry};
use crate::service::MethodDescriptor;

/// The header of a request.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct RpcHeader {
    /// Simple name of the service, without its package.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) service_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) method_name: Vec<u8>,
    /// Bytes of arguments that follow the header.
    #[prost(uint32, tag = "3")]
    pub(crate) args_size: u32,
    /// Chosen by the caller, unique among its unanswered calls. 0: a legacy caller.
    #[prost(uint64, tag = "4")]
    pub(crate) request_id: u64,
    /// What is left of the caller's deadline. 0: none.
    #[prost(uint32, tag = "5")]
    pub(crate) timeout_ms: u32,
    /// A [`RequestKind`]'s number.
    #[prost(uint32, tag = "6")]
    pub(crate) kind: u32,
    /// Bytes of a stream's items that the server may send, see `docs/wire.md`.
    #[prost(uint32, tag = "7")]
    pub(crate) credit: u32,
    #[prost(message, repeated, tag = "8")]
    pub(crate) metadata: Vec<MetadataEntry>,
    /// A W3C `traceparent`, see [`TraceContext`](crate::TraceContext).
    #[prost(string, tag = "9")]
    pub(crate) traceparent: String,
}

/// The header of a reply to a caller that sent a request id.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct RpcReplyHeader {
    #[prost(uint64, tag = "1")]
    pub(crate) request_id: u64,
    /// A [`Code`](crate::Code)'s number.
    #[prost(uint32, tag = "2")]
    pub(crate) code: u32,
    #[prost(string, tag = "3")]
    pub(crate) error_text: String,
    /// Bytes of the reply message that follow the header.
    #[prost(uint32, tag = "4")]
    pub(crate) body_size: u32,
    /// With a failure: the call has had and will have no effect.
    #[prost(bool, tag = "5")]
    pub(crate) refused: bool,
    /// A [`ReplyKind`]'s number.
    #[prost(uint32, tag = "6")]
    pub(crate) kind: u32,
    #[prost(message, repeated, tag = "7")]
    pub(crate) metadata: Vec<MetadataEntry>,
}

/// An [`RpcHeader`], read in place or about to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHead<'a> {
    pub(crate) service_name: Cow<'a, [u8]>,
    pub(crate) method_name: Cow<'a, [u8]>,
    pub(crate) args_size: u32,
    pub(crate) request_id: u64,
    pub(crate) timeout_ms: u32,
    /// Never [`RequestKind::Unknown`] in a header that is written.
    pub(crate) kind: RequestKind,
    pub(crate) credit: u32,
    pub(crate) metadata: Cow<'a, Metadata>,
    pub(crate) traceparent: Cow<'a, str>,
}

impl<'a> RequestHead<'a> {
    /// The header of a call, without what most calls do not have.
    pub(crate) fn call(
        method: &MethodDescriptor,
        args_size: u32,
        request_id: u64,
        timeout_ms: u32,
    ) -> RequestHead<'static> {
        RequestHead {
            service_name: Cow::Borrowed(method.service.as_bytes()),
            method_name: Cow::Borrowed(method.method.as_bytes()),
            args_size,
            request_id,
            timeout_ms,
            ..RequestHead::default()
        }
    }

    /// The header of a frame that begins no call.
    pub(crate) fn control(kind: RequestKind, request_id: u64, credit: u32) -> RequestHead<'static> {
        RequestHead {
            request_id,
            kind,
            credit,
            ..RequestHead::default()
        }
    }

    /// Reads an encoded [`RpcHeader`].
    ///
    /// # Errors
    /// It is malformed, or has too many entries of metadata.
    pub(crate) fn decode(header: &'a [u8]) -> Result<RequestHead<'a>, FrameError> {
        match RequestHead::decode_common(header) {
            Some(head) => Ok(head),
            None => RequestHead::decode_any(header),
        }
    }

    #[cold]
    fn decode_any(header: &[u8]) -> Result<RequestHead<'a>, FrameError> {
        let header = RpcHeader::decode(header)?;
        Ok(RequestHead {
            service_name: Cow::Owned(header.service_name),
            method_name: Cow::Owned(header.method_name),
            args_size: header.args_size,
            request_id: header.request_id,
            timeout_ms: header.timeout_ms,
            kind: RequestKind::from_number(header.kind),
            credit: header.credit,
            metadata: Cow::Owned(collected(header.metadata)?),
            traceparent: Cow::Owned(header.traceparent),
        })
    }

    /// The known fields with one-byte tags and nothing else; `None` leaves the rest to prost.
    #[inline]
    fn decode_common(mut rest: &'a [u8]) -> Option<RequestHead<'a>> {
        let mut head = RequestHead::default();
        let (mut service_name, mut method_name, mut traceparent): (&[u8], &[u8], _) =
            (&[], &[], "");
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            match tag {
                0x0a => service_name = take_bytes(&mut rest)?,
                0x12 => method_name = take_bytes(&mut rest)?,
                0x18 => head.args_size = take_u32(&mut rest)?,
                0x20 => head.request_id = take_varint(&mut rest)?,
                0x28 => head.timeout_ms = take_u32(&mut rest)?,
                0x30 => head.kind = RequestKind::from_number(take_u32(&mut rest)?),
                0x38 => head.credit = take_u32(&mut rest)?,
                0x42 => take_entry(&mut rest, head.metadata.to_mut())?,
                0x4a => traceparent = take_str(&mut rest)?,
                _ => return None,
            }
        }
        Some(RequestHead {
            service_name: Cow::Borrowed(service_name),
            method_name: Cow::Borrowed(method_name),
            traceparent: Cow::Borrowed(traceparent),
            ..head
        })
    }
}

/// What the header of a call begins with: a service and a method, as every encoder writes them.
pub(crate) fn names_in_header(service: &str, method: &str) -> Vec<u8> {
    let mut names = Vec::new();
    put_bytes_field(&mut names, 0x0a, service.as_bytes());
    put_bytes_field(&mut names, 0x12, method.as_bytes());
    names
}

/// The header of a call of a known method that has only what every call has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlainCall {
    pub(crate) args_size: u32,
    /// Not 0.
    pub(crate) request_id: u64,
    pub(crate) timeout_ms: u32,
}

impl PlainCall {
    /// Reads an encoded [`RpcHeader`] that begins with these [names](names_in_header) and goes on
    /// with numbers that every call has; `None` leaves any other to [`RequestHead::decode`].
    #[inline]
    pub(crate) fn decode(header: &[u8], names: &[u8]) -> Option<PlainCall> {
        let mut rest = header.strip_prefix(names)?;
        let mut call = PlainCall::default();
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            match tag {
                0x18 => call.args_size = take_u32(&mut rest)?,
                0x20 => call.request_id = take_varint(&mut rest)?,
                0x28 => call.timeout_ms = take_u32(&mut rest)?,
                _ => return None,
            }
        }
        (call.request_id != 0).then_some(call)
    }
}

/// Bytes of the header that [`put_request_head`] writes.
pub(crate) fn request_head_len(head: &RequestHead<'_>) -> usize {
    bytes_field_len(head.service_name.len())
        + bytes_field_len(head.method_name.len())
        + varint_field_len(u64::from(head.args_size))
        + varint_field_len(head.request_id)
        + varint_field_len(u64::from(head.timeout_ms))
        + varint_field_len(head.kind as u64)
        + varint_field_len(u64::from(head.credit))
        + head.metadata.encoded_len()
        + bytes_field_len(head.traceparent.len())
}

/// Appends an [`RpcHeader`].
pub(crate) fn put_request_head(out: &mut Vec<u8>, head: &RequestHead<'_>) {
    put_bytes_field(out, 0x0a, &head.service_name);
    put_bytes_field(out, 0x12, &head.method_name);
    put_varint_field(out, 0x18, u64::from(head.args_size));
    put_varint_field(out, 0x20, head.request_id);
    put_varint_field(out, 0x28, u64::from(head.timeout_ms));
    put_varint_field(out, 0x30, head.kind as u64);
    put_varint_field(out, 0x38, u64::from(head.credit));
    head.metadata.put(out, 0x42);
    put_bytes_field(out, 0x4a, head.traceparent.as_bytes());
}

/// An [`RpcReplyHeader`], read in place or about to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyHead<'a> {
    pub(crate) request_id: u64,
    pub(crate) code: u32,
    pub(crate) error_text: Cow<'a, str>,
    pub(crate) body_size: u32,
    pub(crate) refused: bool,
    /// Never [`ReplyKind::Unknown`] in a header that is written.
    pub(crate) kind: ReplyKind,
    pub(crate) metadata: Cow<'a, Metadata>,
}

impl<'a> ReplyHead<'a> {
    /// Reads an encoded [`RpcReplyHeader`].
    ///
    /// # Errors
    /// It is malformed, or has too many entries of metadata.
    pub(crate) fn decode(header: &'a [u8]) -> Result<ReplyHead<'a>, FrameError> {
        match ReplyHead::decode_common(header) {
            Some(head) => Ok(head),
            None => ReplyHead::decode_any(header),
        }
    }

    #[cold]
    fn decode_any(header: &[u8]) -> Result<ReplyHead<'a>, FrameError> {
        let header = RpcReplyHeader::decode(header)?;
        Ok(ReplyHead {
            request_id: header.request_id,
            code: header.code,
            error_text: Cow::Owned(header.error_text),
            body_size: header.body_size,
            refused: header.refused,
            kind: ReplyKind::from_number(header.kind),
            metadata: Cow::Owned(collected(header.metadata)?),
        })
    }

    /// The known fields with one-byte tags and nothing else; `None` leaves the rest to prost.
    #[inline]
    fn decode_common(mut rest: &'a [u8]) -> Option<ReplyHead<'a>> {
        let mut head = ReplyHead::default();
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            match tag {
                0x08 => head.request_id = take_varint(&mut rest)?,
                0x10 => head.code = take_u32(&mut rest)?,
                0x1a => head.error_text = Cow::Borrowed(take_str(&mut rest)?),
                0x20 => head.body_size = take_u32(&mut rest)?,
                0x28 => head.refused = take_varint(&mut rest)? != 0,
                0x30 => head.kind = ReplyKind::from_number(take_u32(&mut rest)?),
                0x3a => take_entry(&mut rest, head.metadata.to_mut())?,
                _ => return None,
            }
        }
        Some(head)
    }
}

/// Bytes of the header that [`put_reply_head`] writes.
pub(crate) fn reply_head_len(head: &ReplyHead<'_>) -> usize {
    varint_field_len(head.request_id)
        + varint_field_len(u64::from(head.code))
        + bytes_field_len(head.error_text.len())
        + varint_field_len(u64::from(head.body_size))
        + varint_field_len(u64::from(head.refused))
        + varint_field_len(head.kind as u64)
        + head.metadata.encoded_len()
}

/// The most bytes of a [`MessageHead`]: the size, and two numbers with their tags.
const MESSAGE_HEAD_BYTES_MAX: usize = 1 + (1 + 10) + (1 + MAX_VARINT32_BYTES);

/// The encoded header of a reply that is nothing but a message, as nearly all are, with its size in
/// front. It is put together on the stack, and so has its length before it goes anywhere.
pub(crate) struct MessageHead {
    bytes: [u8; MESSAGE_HEAD_BYTES_MAX],
    len: usize,
}

impl MessageHead {
    #[expect(clippy::cast_possible_truncation, reason = "the size is below 128")]
    pub(crate) fn new(request_id: u64, body_size: u32) -> MessageHead {
        let mut head = MessageHead {
            bytes: [0; MESSAGE_HEAD_BYTES_MAX],
            len: 1,
        };
        head.put(0x08, request_id);
        head.put(0x20, u64::from(body_size));
        head.bytes[0] = (head.len - 1) as u8;
        head
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn put(&mut self, tag: u8, mut value: u64) {
        if value == 0 {
            return;
        }
        self.push(tag);
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Appends an [`RpcReplyHeader`].
pub(crate) fn put_reply_head(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    put_varint_field(out, 0x08, head.request_id);
    put_varint_field(out, 0x10, u64::from(head.code));
    put_bytes_field(out, 0x1a, head.error_text.as_bytes());
    put_varint_field(out, 0x20, u64::from(head.body_size));
    put_varint_field(out, 0x28, u64::from(head.refused));
    put_varint_field(out, 0x30, head.kind as u64);
    head.metadata.put(out, 0x3a);
}

fn collected(entries: Vec<MetadataEntry>) -> Result<Metadata, FrameError> {
    if entries.len() > METADATA_ENTRIES_MAX {
        let entries = entries.len();
        return Err(FrameError::TooManyEntries { entries });
    }
    let mut metadata = Metadata::new();
    for entry in entries {
        metadata.add(entry);
    }
    Ok(metadata)
}

/// One more than there may be goes to prost as well, and is refused when all are counted.
fn take_entry(rest: &mut &[u8], metadata: &mut Metadata) -> Option<()> {
    let entry = MetadataEntry::decode(take_bytes(rest)?).ok()?;
    (metadata.len() < METADATA_ENTRIES_MAX).then(|| metadata.add(entry))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::varint::put_varint;

    /// Bytes that are close to a header, so that the fast path is entered and left.
    fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
        let delimited = |tag: u8, bytes: &[u8]| {
            let mut out = vec![tag];
            put_varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
            out
        };
        let field = prop_oneof![
            (any::<u8>(), any::<u64>()).prop_map(|(tag, value)| {
                let mut out = vec![tag & 0x7f];
                put_varint(&mut out, value);
                out
            }),
            (
                prop::sample::select(vec![0x0au8, 0x12, 0x1a, 0x3a, 0x42, 0x4a]),
                prop_oneof![
                    any::<Vec<u8>>(),
                    any::<String>().prop_map(String::into_bytes),
                    metadata().prop_map(|metadata| {
                        let mut out = Vec::new();
                        metadata.put(&mut out, 0x42);
                        // Without the first entry's tag and size: what stands in the field.
                        out.split_off(out.len().min(2))
                    }),
                ],
            )
                .prop_map(move |(tag, bytes)| delimited(tag, &bytes)),
            (
                prop::sample::select(vec![0x08u8, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38]),
                prop_oneof![any::<u32>(), 0..8u32]
            )
                .prop_map(|(tag, value)| {
                    let mut out = vec![tag];
                    put_varint(&mut out, u64::from(value));
                    out
                }),
            any::<Vec<u8>>(),
        ];
        prop::collection::vec(field, 0..6).prop_map(|fields| fields.concat())
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        let entries = prop::collection::vec((any::<String>(), any::<Vec<u8>>()), 0..3);
        entries.prop_map(Metadata::from_iter)
    }

    fn entries(metadata: &Metadata) -> Vec<MetadataEntry> {
        let entry = |(key, value): (&str, &[u8])| MetadataEntry {
            key: key.to_owned(),
            value: value.to_vec().into(),
        };
        metadata.iter().map(entry).collect()
    }

    proptest! {
        #[test]
        fn request_heads_are_what_prost_writes(
            service_name: Vec<u8>, method_name: Vec<u8>, args_size: u32, request_id: u64,
            timeout_ms: u32, kind in 0..6u32, credit: u32, metadata in metadata(),
            traceparent: String,
        ) {
            let head = RequestHead {
                service_name: Cow::Borrowed(&service_name),
                method_name: Cow::Borrowed(&method_name),
                args_size,
                request_id,
                timeout_ms,
                kind: RequestKind::from_number(kind),
                credit,
                metadata: Cow::Borrowed(&metadata),
                traceparent: Cow::Borrowed(&traceparent),
            };
            let mut ours = Vec::new();
            put_request_head(&mut ours, &head);
            let header = RpcHeader {
                service_name: service_name.clone(),
                method_name: method_name.clone(),
                args_size,
                request_id,
                timeout_ms,
                kind,
                credit,
                metadata: entries(&metadata),
                traceparent: traceparent.clone(),
            };
            prop_assert_eq!(&ours, &header.encode_to_vec());
            prop_assert_eq!(ours.len(), request_head_len(&head));
            prop_assert_eq!(RequestHead::decode(&ours).unwrap(), head);
        }

        #[test]
        fn reply_heads_are_what_prost_writes(
            request_id: u64, code: u32, error_text: String, body_size: u32, refused: bool,
            kind in 0..5u32, metadata in metadata(),
        ) {
            let head = ReplyHead {
                request_id,
                code,
                error_text: Cow::Borrowed(&error_text),
                body_size,
                refused,
                kind: ReplyKind::from_number(kind),
                metadata: Cow::Borrowed(&metadata),
            };
            let mut ours = Vec::new();
            put_reply_head(&mut ours, &head);
            let header = RpcReplyHeader {
                request_id,
                code,
                error_text: error_text.clone(),
                body_size,
                refused,
                kind,
                metadata: entries(&metadata),
            };
            prop_assert_eq!(&ours, &header.encode_to_vec());
            prop_assert_eq!(ours.len(), reply_head_len(&head));
            prop_assert_eq!(ReplyHead::decode(&ours).unwrap(), head);
        }

        #[test]
        fn the_head_of_a_mere_message_is_that_of_any_reply(
            request_id: u64,
            body_size: u32,
        ) {
            let head = ReplyHead { request_id, body_size, ..ReplyHead::default() };
            let mut any = vec![0];
            put_reply_head(&mut any, &head);
            any[0] = u8::try_from(any.len() - 1).unwrap();
            let head = MessageHead::new(request_id, body_size);
            prop_assert_eq!(head.as_bytes(), any);
        }

        /// Whatever follows the names: what is taken for a plain call is one.
        #[test]
        fn plain_calls_are_read_as_any_other(
            plain: bool,
            numbers: (u32, u64, u32),
            other in nearly_a_header(),
        ) {
            let mut bytes = names_in_header("Echo", "Say");
            if plain {
                let head = RequestHead {
                    args_size: numbers.0,
                    request_id: numbers.1,
                    timeout_ms: numbers.2,
                    ..RequestHead::default()
                };
                put_request_head(&mut bytes, &head);
            } else {
                bytes.extend(other);
            }
            let read = PlainCall::decode(&bytes, &names_in_header("Echo", "Say"));
            if let Some(call) = read {
                let head = RequestHead {
                    service_name: Cow::Borrowed(b"Echo"),
                    method_name: Cow::Borrowed(b"Say"),
                    args_size: call.args_size,
                    request_id: call.request_id,
                    timeout_ms: call.timeout_ms,
                    ..RequestHead::default()
                };
                prop_assert_eq!(RequestHead::decode(&bytes).unwrap(), head);
            }
            prop_assert!(read.is_some() || !plain || numbers.1 == 0);
            prop_assert_eq!(PlainCall::decode(&bytes, &names_in_header("Echo", "Sa")), None);
        }

        /// Also for broken bytes: the fast path accepts nothing that prost refuses.
        #[test]
        fn request_heads_are_read_as_prost_reads_them(bytes in nearly_a_header()) {
            match (RequestHead::decode(&bytes), RpcHeader::decode(&bytes[..])) {
                (Ok(ours), Ok(prosts)) => {
                    prop_assert_eq!(&*ours.service_name, &prosts.service_name[..]);
                    prop_assert_eq!(&*ours.method_name, &prosts.method_name[..]);
                    prop_assert_eq!(ours.args_size, prosts.args_size);
                    prop_assert_eq!(ours.request_id, prosts.request_id);
                    prop_assert_eq!(ours.timeout_ms, prosts.timeout_ms);
                    prop_assert_eq!(ours.kind, RequestKind::from_number(prosts.kind));
                    prop_assert_eq!(ours.credit, prosts.credit);
                    prop_assert_eq!(&*ours.metadata, &collected(prosts.metadata).unwrap());
                    prop_assert_eq!(&*ours.traceparent, &prosts.traceparent[..]);
                }
                (Err(_), Err(_)) => {}
                (ours, prosts) => prop_assert!(false, "{:?} but prost {:?}", ours, prosts),
            }
        }

        #[test]
        fn reply_heads_are_read_as_prost_reads_them(bytes in nearly_a_header()) {
            match (ReplyHead::decode(&bytes), RpcReplyHeader::decode(&bytes[..])) {
                (Ok(ours), Ok(prosts)) => {
                    prop_assert_eq!(ours.request_id, prosts.request_id);
                    prop_assert_eq!(ours.code, prosts.code);
                    prop_assert_eq!(&*ours.error_text, &prosts.error_text[..]);
                    prop_assert_eq!(ours.body_size, prosts.body_size);
                    prop_assert_eq!(ours.refused, prosts.refused);
                    prop_assert_eq!(ours.kind, ReplyKind::from_number(prosts.kind));
                    prop_assert_eq!(&*ours.metadata, &collected(prosts.metadata).unwrap());
                }
                (Err(_), Err(_)) => {}
                (ours, prosts) => prop_assert!(false, "{:?} but prost {:?}", ours, prosts),
            }
        }
    }
}
