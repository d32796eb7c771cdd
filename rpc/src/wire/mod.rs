//! The bytes on the wire, without a socket in sight. The format itself: `docs/wire.md`.

mod field;
mod frame;
mod header;
mod input;
mod kind;
mod limits;
mod output;
mod pool;
mod varint;

pub(crate) use field::{bytes_field_len, put_bytes_field};
pub(crate) use frame::{
    FrameError, FrontFrame, Peeked, check_body, message_len, peek_dialect, peek_plain_call,
    peek_reply, peek_request, put_message, put_reply, put_request, reply_len, request_len,
};
pub(crate) use header::{MessageHead, PlainCall, ReplyHead, RequestHead, names_in_header};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use header::{
    RpcHeader, RpcReplyHeader, put_reply_head, put_request_head, reply_head_len, request_head_len,
};
pub(crate) use input::InputBuffer;
pub(crate) use kind::{ReplyKind, RequestKind};
pub use limits::Limits;
pub(crate) use limits::METADATA_ENTRIES_MAX;
pub(crate) use output::{OutputQueue, Written};
pub(crate) use pool::frame_buffer;
pub(crate) use varint::{put_varint, varint_len};

#[cfg(test)]
mod page_test;
