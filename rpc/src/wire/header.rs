//! The two headers, as prost sees them and as the fast path reads and writes them.
//!
//! The structs define the format (their `.proto` text is in `docs/wire.md`). Every frame carries a
//! header of five small fields, so the common shape is read in place and written by hand; whatever
//! else protobuf allows (unknown fields, groups, odd varints) goes through prost. Property tests
//! hold the two ways against each other.

use std::borrow::Cow;

use prost::Message;

use super::varint::{put_varint, take_varint, varint_len};
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
}

/// An [`RpcHeader`] read in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHead<'a> {
    pub(crate) service_name: Cow<'a, [u8]>,
    pub(crate) method_name: Cow<'a, [u8]>,
    pub(crate) args_size: u32,
    pub(crate) request_id: u64,
    pub(crate) timeout_ms: u32,
}

impl<'a> RequestHead<'a> {
    /// Reads an encoded [`RpcHeader`].
    pub(crate) fn decode(header: &'a [u8]) -> Result<RequestHead<'a>, prost::DecodeError> {
        if let Some(head) = RequestHead::decode_common(header) {
            return Ok(head);
        }
        let header = RpcHeader::decode(header)?;
        Ok(RequestHead {
            service_name: Cow::Owned(header.service_name),
            method_name: Cow::Owned(header.method_name),
            args_size: header.args_size,
            request_id: header.request_id,
            timeout_ms: header.timeout_ms,
        })
    }

    /// The known fields with one-byte tags and nothing else; `None` leaves the rest to prost.
    fn decode_common(mut rest: &'a [u8]) -> Option<RequestHead<'a>> {
        let mut head = RequestHead::default();
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            match tag {
                0x0a => head.service_name = Cow::Borrowed(take_bytes(&mut rest)?),
                0x12 => head.method_name = Cow::Borrowed(take_bytes(&mut rest)?),
                0x18 => head.args_size = take_u32(&mut rest)?,
                0x20 => head.request_id = take_varint(&mut rest)?,
                0x28 => head.timeout_ms = take_u32(&mut rest)?,
                _ => return None,
            }
        }
        Some(head)
    }
}

/// Bytes of the header that [`put_request_head`] writes.
pub(crate) fn request_head_len(
    method: &MethodDescriptor,
    args_size: u32,
    request_id: u64,
    timeout_ms: u32,
) -> usize {
    bytes_field_len(method.service.len())
        + bytes_field_len(method.method.len())
        + varint_field_len(u64::from(args_size))
        + varint_field_len(request_id)
        + varint_field_len(u64::from(timeout_ms))
}

/// Appends the [`RpcHeader`] of a call.
pub(crate) fn put_request_head(
    out: &mut Vec<u8>,
    method: &MethodDescriptor,
    args_size: u32,
    request_id: u64,
    timeout_ms: u32,
) {
    put_bytes_field(out, 0x0a, method.service.as_bytes());
    put_bytes_field(out, 0x12, method.method.as_bytes());
    put_varint_field(out, 0x18, u64::from(args_size));
    put_varint_field(out, 0x20, request_id);
    put_varint_field(out, 0x28, u64::from(timeout_ms));
}

/// An [`RpcReplyHeader`] read in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyHead<'a> {
    pub(crate) request_id: u64,
    pub(crate) code: u32,
    pub(crate) error_text: Cow<'a, str>,
    pub(crate) body_size: u32,
    pub(crate) refused: bool,
}

impl<'a> ReplyHead<'a> {
    /// Reads an encoded [`RpcReplyHeader`].
    pub(crate) fn decode(header: &'a [u8]) -> Result<ReplyHead<'a>, prost::DecodeError> {
        if let Some(head) = ReplyHead::decode_common(header) {
            return Ok(head);
        }
        let header = RpcReplyHeader::decode(header)?;
        Ok(ReplyHead {
            request_id: header.request_id,
            code: header.code,
            error_text: Cow::Owned(header.error_text),
            body_size: header.body_size,
            refused: header.refused,
        })
    }

    /// The known fields with one-byte tags and nothing else; `None` leaves the rest to prost.
    fn decode_common(mut rest: &'a [u8]) -> Option<ReplyHead<'a>> {
        let mut head = ReplyHead::default();
        while let Some((&tag, after)) = rest.split_first() {
            rest = after;
            match tag {
                0x08 => head.request_id = take_varint(&mut rest)?,
                0x10 => head.code = take_u32(&mut rest)?,
                0x1a => {
                    head.error_text = Cow::Borrowed(str::from_utf8(take_bytes(&mut rest)?).ok()?);
                }
                0x20 => head.body_size = take_u32(&mut rest)?,
                0x28 => head.refused = take_varint(&mut rest)? != 0,
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
}

/// Appends the [`RpcReplyHeader`] of a reply.
pub(crate) fn put_reply_head(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    put_varint_field(out, 0x08, head.request_id);
    put_varint_field(out, 0x10, u64::from(head.code));
    put_bytes_field(out, 0x1a, head.error_text.as_bytes());
    put_varint_field(out, 0x20, u64::from(head.body_size));
    put_varint_field(out, 0x28, u64::from(head.refused));
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

/// A value above 32 bits goes to prost, which knows how protobuf cuts it.
fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(take_varint(rest)?).ok()
}

// Protobuf leaves out fields that hold their default.

fn bytes_field_len(len: usize) -> usize {
    if len == 0 {
        0
    } else {
        1 + varint_len(len as u64) + len
    }
}

fn varint_field_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn put_bytes_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_varint_field(out: &mut Vec<u8>, tag: u8, value: u64) {
    if value != 0 {
        out.push(tag);
        put_varint(out, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static METHOD: MethodDescriptor = MethodDescriptor {
        service: "kvServerRpc",
        method: "Get",
    };

    /// Bytes that are close to a header, so that the fast path is entered and left.
    fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
        let field = prop_oneof![
            (any::<u8>(), any::<u64>()).prop_map(|(tag, value)| {
                let mut out = vec![tag & 0x3f];
                put_varint(&mut out, value);
                out
            }),
            (
                prop_oneof![Just(0x0au8), Just(0x12), Just(0x1a)],
                any::<Vec<u8>>()
            )
                .prop_map(|(tag, bytes)| {
                    let mut out = vec![tag];
                    put_varint(&mut out, bytes.len() as u64);
                    out.extend(bytes);
                    out
                }),
            (
                prop_oneof![Just(0x08u8), Just(0x18), Just(0x20), Just(0x28)],
                any::<u32>()
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

    proptest! {
        #[test]
        fn request_heads_are_what_prost_writes(args_size: u32, request_id: u64, timeout_ms: u32) {
            let mut ours = Vec::new();
            put_request_head(&mut ours, &METHOD, args_size, request_id, timeout_ms);
            let header = RpcHeader {
                service_name: METHOD.service.into(),
                method_name: METHOD.method.into(),
                args_size,
                request_id,
                timeout_ms,
            };
            prop_assert_eq!(&ours, &header.encode_to_vec());
            prop_assert_eq!(ours.len(), request_head_len(&METHOD, args_size, request_id, timeout_ms));
        }

        #[test]
        fn reply_heads_are_what_prost_writes(
            request_id: u64, code: u32, error_text: String, body_size: u32, refused: bool,
        ) {
            let mut ours = Vec::new();
            let head =
                ReplyHead { request_id, code, error_text: Cow::Borrowed(&error_text), body_size, refused };
            put_reply_head(&mut ours, &head);
            let header = RpcReplyHeader {
                request_id, code, error_text: error_text.clone(), body_size, refused,
            };
            prop_assert_eq!(&ours, &header.encode_to_vec());
            prop_assert_eq!(ours.len(), reply_head_len(&head));
            prop_assert_eq!(ReplyHead::decode(&ours).unwrap(), head);
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
                }
                (Err(_), Err(_)) => {}
                (ours, prosts) => prop_assert!(false, "{:?} but prost {:?}", ours, prosts),
            }
        }
    }
}
