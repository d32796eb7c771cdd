//! Where the replies of one connection gather until its loop writes them.
//!
//! ```text
//!  Done on the loop's thread ──► Outbox (thread-local: no lock, no wake) ──┐
//!                                                                          ├─► one write a turn
//!  Done on another thread ──► MailedReplies (a short lock, one wake) ──────┘
//! ```
//!
//! A reply is encoded where it is given, once, straight into the bytes that will be sent.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prost::Message;
use slab::Slab;

use crate::error::{Code, RpcError};
use crate::reactor::{LoopHandle, Post, SourceId, flush_later};
use crate::wire::{OutputQueue, ReplyHead, put_reply, reply_len};

/// Longest error text that travels, in bytes. Far below any sensible header limit of a client.
const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;

/// Replies from this size on are encoded before the connection's lock is taken.
const LARGE_REPLY_BYTES: usize = 32 << 10;

/// What a legacy caller gets instead of an empty reply, which it would wait for: one field that
/// every protobuf parser skips, number 19000 (of the range that no `.proto` may use), value 0.
const NOT_EMPTY: [u8; 4] = [0xc0, 0xa3, 0x09, 0x00];

/// Which call a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallId {
    /// By the caller's number.
    Framed { request_id: u64 },
    /// The only one that is under way.
    Legacy,
}

/// What can be sent to a legacy caller: a bare body, or nothing but the end of the connection.
pub(super) type LegacyReply = Result<Vec<u8>, RpcError>;

/// Replies on their way, encoded.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Frames for framed callers.
    pub(super) framed: OutputQueue,
    /// A bare body, or what it could not say. A legacy caller has one call under way.
    pub(super) legacy: Option<LegacyReply>,
    /// Calls that these replies end.
    pub(super) count: u64,
}

impl Replies {
    fn add_message(&mut self, call: CallId, body: &impl Message, body_size: u32) {
        self.count += 1;
        match call {
            CallId::Framed { request_id } => {
                let head = ReplyHead {
                    request_id,
                    body_size,
                    ..ReplyHead::default()
                };
                self.framed
                    .push_frame(reply_len(&head), |out| put_reply(out, &head, Some(body)));
            }
            CallId::Legacy => self.legacy = Some(Ok(legacy_body(body))),
        }
    }

    fn add_frame(&mut self, frame: Vec<u8>) {
        self.count += 1;
        self.framed.push_segment(frame);
    }

    fn add_error(&mut self, call: CallId, error: RpcError) {
        self.count += 1;
        // A handler that fails with OK must not look as if it had succeeded with an empty reply.
        let code = match error.code() {
            Code::Ok => Code::Internal,
            code => code,
        };
        match call {
            CallId::Framed { request_id } => {
                let head = ReplyHead {
                    request_id,
                    code: code.number(),
                    error_text: Cow::Borrowed(shortened(error.text())),
                    body_size: 0,
                    refused: !error.may_have_executed(),
                };
                let no_body: Option<&()> = None;
                self.framed
                    .push_frame(reply_len(&head), |out| put_reply(out, &head, no_body));
            }
            CallId::Legacy => self.legacy = Some(Err(error)),
        }
    }

    fn append(&mut self, other: &mut Replies) {
        self.framed.append(&mut other.framed);
        if other.legacy.is_some() {
            self.legacy = other.legacy.take();
        }
        self.count += std::mem::take(&mut other.count);
    }
}

fn legacy_body(body: &impl Message) -> Vec<u8> {
    let bytes = body.encode_to_vec();
    if bytes.is_empty() {
        NOT_EMPTY.to_vec()
    } else {
        bytes
    }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_TEXT_BYTES_MAX)]
}

/// What a connection shares with the handlers of its calls, on whatever thread they are.
#[derive(Debug)]
pub(crate) struct ReplyPath {
    handle: Arc<LoopHandle>,
    /// The connection on that loop.
    source: SourceId,
    outbox: OutboxId,
    max_body_bytes: u32,
    mailed: Mutex<Mailed>,
}

/// What other threads left for the connection.
#[derive(Debug, Default)]
struct Mailed {
    replies: Replies,
    /// The provider shuts down: finish by then.
    drain_until: Option<Instant>,
    /// The connection has been told to look and has not looked yet.
    notified: bool,
    /// The connection is gone; replies are dropped.
    closed: bool,
}

/// What [`ReplyPath::collect`] found besides replies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Collected {
    pub(super) drain_until: Option<Instant>,
}

impl ReplyPath {
    pub(super) fn new(handle: Arc<LoopHandle>, source: SourceId, max_body_bytes: u32) -> ReplyPath {
        debug_assert!(handle.is_current(), "outboxes are the loop's thread's own");
        let outbox = open_outbox(source);
        ReplyPath {
            handle,
            source,
            outbox,
            max_body_bytes,
            mailed: Mutex::default(),
        }
    }

    /// Answers a call with a message.
    pub(crate) fn reply(&self, call: CallId, body: &impl Message) {
        let len = body.encoded_len();
        let body_size = match u32::try_from(len) {
            Ok(size) if size <= self.max_body_bytes => size,
            _ => return self.fail(call, too_large(len, self.max_body_bytes)),
        };
        if self.handle.is_current() {
            return self
                .outbox
                .add(|replies| replies.add_message(call, body, body_size));
        }
        match call {
            CallId::Framed { request_id } if len >= LARGE_REPLY_BYTES => {
                let head = ReplyHead {
                    request_id,
                    body_size,
                    ..ReplyHead::default()
                };
                let mut frame = Vec::with_capacity(reply_len(&head));
                put_reply(&mut frame, &head, Some(body));
                self.mail(|mailed| mailed.replies.add_frame(frame));
            }
            _ => self.mail(|mailed| mailed.replies.add_message(call, body, body_size)),
        }
    }

    /// Answers a call with a failure.
    pub(crate) fn fail(&self, call: CallId, error: RpcError) {
        if self.handle.is_current() {
            self.outbox.add(|replies| replies.add_error(call, error));
        } else {
            self.mail(|mailed| mailed.replies.add_error(call, error));
        }
    }

    /// Tells the connection to finish what it has begun and to close.
    pub(super) fn drain(&self, until: Instant) {
        self.mail(|mailed| mailed.drain_until = Some(until));
    }

    fn mail(&self, leave: impl FnOnce(&mut Mailed)) {
        let notify = {
            let mut mailed = self.mailed.lock();
            if mailed.closed {
                return;
            }
            leave(&mut mailed);
            !std::mem::replace(&mut mailed.notified, true)
        };
        if notify {
            // A loop that has ended has no connections.
            let _ = self.handle.post(Post::Notify(self.source));
        }
    }

    // ---- for the connection, on its loop's thread

    /// Moves what other threads left to the outbox.
    pub(super) fn collect(&self) -> Collected {
        let (mut replies, collected) = {
            let mut mailed = self.mailed.lock();
            mailed.notified = false;
            let collected = Collected {
                drain_until: mailed.drain_until,
            };
            (std::mem::take(&mut mailed.replies), collected)
        };
        self.outbox.add(|outbox| outbox.append(&mut replies));
        collected
    }

    /// Looks into the outbox.
    pub(super) fn with_outbox<T>(&self, f: impl FnOnce(&mut Outbox) -> T) -> T {
        self.outbox
            .with(f)
            .expect("an outbox lives as long as its connection")
    }

    /// The connection goes: later replies are dropped.
    pub(super) fn close(&self) {
        {
            let mut mailed = self.mailed.lock();
            mailed.closed = true;
            mailed.replies = Replies::default();
        }
        self.outbox.close();
    }
}

fn too_large(len: usize, limit: u32) -> RpcError {
    let text = format!(
        "reply of {len} bytes is over the server's limit of {limit} (Limits::max_body_bytes)"
    );
    RpcError::new(Code::ResourceExhausted, text).with_may_have_executed(true)
}

/// The replies of one connection that were given on its loop's own thread, or collected there.
#[derive(Debug)]
pub(super) struct Outbox {
    generation: u64,
    source: SourceId,
    pub(super) replies: Replies,
    /// The loop will flush the connection when the turn ends.
    pub(super) flush_asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct OutboxId {
    key: usize,
    generation: u64,
}

thread_local! {
    /// The outboxes of this thread's loop, with the generation of the next one.
    /// Never borrowed across a callback.
    static OUTBOXES: RefCell<(Slab<Outbox>, u64)> = const { RefCell::new((Slab::new(), 0)) };
}

fn open_outbox(source: SourceId) -> OutboxId {
    OUTBOXES.with_borrow_mut(|(outboxes, generation)| {
        *generation += 1;
        let generation = *generation;
        let outbox = Outbox {
            generation,
            source,
            replies: Replies::default(),
            flush_asked: false,
        };
        OutboxId {
            key: outboxes.insert(outbox),
            generation,
        }
    })
}

impl OutboxId {
    fn with<T>(self, f: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
        OUTBOXES.with_borrow_mut(|(outboxes, _)| {
            outboxes
                .get_mut(self.key)
                .filter(|outbox| outbox.generation == self.generation)
                .map(f)
        })
    }

    /// Adds replies and sees to it that they are flushed. Without an outbox they are dropped.
    fn add(self, add: impl FnOnce(&mut Replies)) {
        self.with(|outbox| {
            add(&mut outbox.replies);
            if !std::mem::replace(&mut outbox.flush_asked, true) {
                flush_later(outbox.source);
            }
        });
    }

    fn close(self) {
        let outbox = OUTBOXES.with_borrow_mut(|(outboxes, _)| {
            let current = outboxes.get(self.key)?.generation == self.generation;
            current.then(|| outboxes.remove(self.key))
        });
        drop(outbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_texts_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"\u{e9}".repeat(9_999)).len(), 4_096);
        assert_eq!(
            shortened(&format!("x{}", "\u{e9}".repeat(9_999))).len(),
            4_095
        );
    }
}
