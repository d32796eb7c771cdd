//! Headers: that the two ways to read them agree, and that what is read can be written.

use prost::Message;

use crate::metadata::MetadataEntry;
use crate::wire::{
    FrameError, METADATA_ENTRIES_MAX, ReplyHead, ReplyKind, RequestHead, RequestKind, RpcHeader,
    RpcReplyHeader, put_reply_head, put_request_head, reply_head_len, request_head_len,
};

/// Takes `data` as an encoded `RpcHeader`.
///
/// Our reader and prost's refuse the same bytes, but for ours counting the entries of metadata, and
/// find the same in all others. What was found is
/// written as prost writes it, in the announced length, which is never more than what was read;
/// and reading that finds the same again.
///
/// # Panics
/// When one of that does not hold.
pub fn rpc_header(data: &[u8]) {
    let (head, header) = match (RequestHead::decode(data), RpcHeader::decode(data)) {
        (Ok(head), Ok(header)) => (head, header),
        (Err(FrameError::TooManyEntries { entries }), Ok(header)) => {
            assert_eq!(entries, header.metadata.len());
            return assert!(entries > METADATA_ENTRIES_MAX);
        }
        (Err(_), Err(_)) => return,
        (ours, prosts) => panic!("{ours:?}, but prost's reader: {prosts:?}"),
    };
    assert_eq!(*head.service_name, header.service_name);
    assert_eq!(*head.method_name, header.method_name);
    assert_eq!(head.args_size, header.args_size);
    assert_eq!(head.request_id, header.request_id);
    assert_eq!(head.timeout_ms, header.timeout_ms);
    assert_eq!(head.kind, RequestKind::from_number(header.kind));
    assert_eq!(head.credit, header.credit);
    check_metadata(head.metadata.iter(), &header.metadata);
    assert_eq!(*head.traceparent, header.traceparent);

    if head.kind == RequestKind::Unknown {
        return; // nobody writes such a header
    }
    let mut written = Vec::new();
    put_request_head(&mut written, &head);
    assert_eq!(written, header.encode_to_vec());
    assert_eq!(written.len(), request_head_len(&head));
    assert!(written.len() <= data.len(), "{} bytes", written.len());
    assert_eq!(RequestHead::decode(&written).ok(), Some(head));
}

/// Takes `data` as an encoded `RpcReplyHeader`, of which the same holds as of
/// [requests' headers](rpc_header).
///
/// # Panics
/// When one of that does not hold.
pub fn rpc_reply_header(data: &[u8]) {
    let (head, header) = match (ReplyHead::decode(data), RpcReplyHeader::decode(data)) {
        (Ok(head), Ok(header)) => (head, header),
        (Err(FrameError::TooManyEntries { entries }), Ok(header)) => {
            assert_eq!(entries, header.metadata.len());
            return assert!(entries > METADATA_ENTRIES_MAX);
        }
        (Err(_), Err(_)) => return,
        (ours, prosts) => panic!("{ours:?}, but prost's reader: {prosts:?}"),
    };
    assert_eq!(head.request_id, header.request_id);
    assert_eq!(head.code, header.code);
    assert_eq!(*head.error_text, header.error_text);
    assert_eq!(head.body_size, header.body_size);
    assert_eq!(head.refused, header.refused);
    assert_eq!(head.kind, ReplyKind::from_number(header.kind));
    check_metadata(head.metadata.iter(), &header.metadata);

    if head.kind == ReplyKind::Unknown {
        return; // nobody writes such a header
    }
    let mut written = Vec::new();
    put_reply_head(&mut written, &head);
    assert_eq!(written, header.encode_to_vec());
    assert_eq!(written.len(), reply_head_len(&head));
    assert!(written.len() <= data.len(), "{} bytes", written.len());
    assert_eq!(ReplyHead::decode(&written).ok(), Some(head));
}

fn check_metadata<'a>(
    ours: impl Iterator<Item = (&'a str, &'a [u8])>,
    prosts: &'a [MetadataEntry],
) {
    let prosts = prosts.iter().map(|entry| (&*entry.key, &*entry.value));
    assert!(ours.eq(prosts), "the metadata differs from prost's");
}
