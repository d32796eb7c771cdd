//! What a connection sends, encoded and gathered until its loop writes it.
//!
//! [`Replies`] are bytes with a note of the calls that they end. Those given on the loop's own
//! thread gather in its thread-local [`Outbox`]es: no lock, no wake, one write a turn.

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Instant;

use prost::Message;
use slab::Slab;

use crate::error::{Code, RpcError};
use crate::metadata::Metadata;
use crate::reactor::{SourceId, flush_later};
use crate::wire::{
    MessageHead, OutputQueue, ReplyHead, ReplyKind, message_len, put_message, put_reply, reply_len,
};

/// Longest error text that travels, in bytes. Far below any sensible header limit of a client.
const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;

/// What a legacy caller gets instead of an empty reply, which it would wait for: one field that
/// every protobuf parser skips, number 19000 (of the range that no `.proto` may use), value 0.
const NOT_EMPTY: [u8; 4] = [0xc0, 0xa3, 0x09, 0x00];

/// A method's number among all methods of its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MethodIndex(u32);

impl MethodIndex {
    /// Of a method that does not exist.
    pub(crate) const UNKNOWN: MethodIndex = MethodIndex(u32::MAX);

    pub(super) fn new(index: usize) -> MethodIndex {
        u32::try_from(index).map_or(MethodIndex::UNKNOWN, MethodIndex)
    }

    /// Where the statistics count it.
    pub(super) fn position(self) -> usize {
        self.0 as usize
    }
}

/// Which call an answer ends, and what travels with it.
#[derive(Debug)]
pub(super) struct Answer {
    /// 0: the call of a legacy caller, the only one that is under way.
    pub(super) request_id: u64,
    pub(super) method: MethodIndex,
    pub(super) arrived: Instant,
    pub(super) metadata: Metadata,
}

/// Calls that ended one after the other and have all of this in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndedRun {
    pub(super) method: MethodIndex,
    /// When the bytes of these calls arrived.
    pub(super) arrived: Instant,
    pub(super) code: Code,
    pub(super) count: u32,
}

/// What can be sent to a legacy caller: a bare body, or nothing but the end of the connection.
pub(super) type LegacyReply = Result<Vec<u8>, RpcError>;

/// Frames on their way, encoded.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// Frames for framed callers.
    pub(super) framed: OutputQueue,
    /// A bare body, or what it could not say. A legacy caller has one call under way.
    pub(super) legacy: Option<LegacyReply>,
    /// Calls that these replies end.
    pub(super) count: usize,
    /// The same, for the statistics.
    pub(super) ended: Vec<EndedRun>,
    /// Streams' items in `framed`.
    pub(super) items: usize,
    /// Their bytes.
    pub(super) item_bytes: usize,
}

impl Replies {
    pub(super) fn add_message(&mut self, answer: &Answer, body: &impl Message, body_size: u32) {
        self.end(answer, Code::Ok);
        if answer.request_id == 0 {
            self.legacy = Some(Ok(legacy_body(body)));
        } else if answer.metadata.is_empty() {
            let head = MessageHead::new(answer.request_id, body_size);
            self.framed
                .push_frame(message_len(&head, body_size), |out| {
                    put_message(out, &head, body);
                });
        } else {
            self.push(&message_head(answer, body_size), Some(body));
        }
    }

    /// A message that was encoded elsewhere.
    pub(super) fn add_frame(&mut self, answer: &Answer, frame: Vec<u8>) {
        self.end(answer, Code::Ok);
        self.framed.push_segment(frame);
    }

    /// The end of a stream.
    pub(super) fn add_end(&mut self, answer: &Answer) {
        self.end(answer, Code::Ok);
        self.push(&message_head(answer, 0), NO_BODY);
    }

    pub(super) fn add_error(&mut self, answer: &Answer, error: RpcError) {
        // A handler that fails with OK must not look as if it had succeeded with an empty reply.
        let code = match error.code() {
            Code::Ok => Code::Internal,
            code => code,
        };
        self.end(answer, code);
        if answer.request_id == 0 {
            self.legacy = Some(Err(error));
            return;
        }
        let head = ReplyHead {
            request_id: answer.request_id,
            code: code.number(),
            error_text: Cow::Borrowed(shortened(error.text())),
            refused: !error.may_have_executed(),
            metadata: Cow::Borrowed(&answer.metadata),
            ..ReplyHead::default()
        };
        self.push(&head, NO_BODY);
    }

    /// One item of a stream, whose frame takes `frame_bytes`.
    pub(super) fn add_item(
        &mut self,
        head: &ReplyHead<'_>,
        item: &impl Message,
        frame_bytes: usize,
    ) {
        self.items += 1;
        self.item_bytes += frame_bytes;
        self.push(head, Some(item));
    }

    /// An item that was encoded elsewhere.
    pub(super) fn add_item_frame(&mut self, frame: Vec<u8>) {
        self.items += 1;
        self.item_bytes += frame.len();
        self.framed.push_segment(frame);
    }

    /// A frame that belongs to no call.
    pub(super) fn add_control(&mut self, kind: ReplyKind, number: u64) {
        let head = ReplyHead {
            request_id: number,
            kind,
            ..ReplyHead::default()
        };
        self.push(&head, NO_BODY);
    }

    fn push(&mut self, head: &ReplyHead<'_>, body: Option<&impl Message>) {
        self.framed
            .push_frame(reply_len(head), |out| put_reply(out, head, body));
    }

    fn end(&mut self, answer: &Answer, code: Code) {
        self.count += 1;
        let run = EndedRun {
            method: answer.method,
            arrived: answer.arrived,
            code,
            count: 1,
        };
        match self.ended.last_mut() {
            Some(last) if EndedRun { count: 1, ..*last } == run && last.count < u32::MAX => {
                last.count += 1;
            }
            _ => self.ended.push(run),
        }
    }

    pub(super) fn append(&mut self, other: &mut Replies) {
        self.framed.append(&mut other.framed);
        if other.legacy.is_some() {
            self.legacy = other.legacy.take();
        }
        self.count += std::mem::take(&mut other.count);
        self.ended.append(&mut other.ended);
        self.items += std::mem::take(&mut other.items);
        self.item_bytes += std::mem::take(&mut other.item_bytes);
    }
}

const NO_BODY: Option<&()> = None;

/// The calls that replies end which will not be sent.
#[cold]
pub(super) fn ended_by(add: impl FnOnce(&mut Replies)) -> Vec<EndedRun> {
    let mut replies = Replies::default();
    add(&mut replies);
    replies.ended
}

pub(super) fn message_head(answer: &Answer, body_size: u32) -> ReplyHead<'_> {
    ReplyHead {
        request_id: answer.request_id,
        body_size,
        metadata: Cow::Borrowed(&answer.metadata),
        ..ReplyHead::default()
    }
}

/// The frame that says that no call of the connection was or will be begun, and why.
pub(super) fn refusal_frame(error: &RpcError) -> Vec<u8> {
    let head = ReplyHead {
        code: error.code().number(),
        error_text: Cow::Borrowed(shortened(error.text())),
        refused: true,
        kind: ReplyKind::Goaway,
        ..ReplyHead::default()
    };
    let mut frame = Vec::with_capacity(reply_len(&head));
    put_reply(&mut frame, &head, NO_BODY);
    frame
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
pub(super) struct OutboxId {
    key: usize,
    generation: u64,
}

thread_local! {
    /// The outboxes of this thread's loop, with the generation of the next one.
    /// Never borrowed across a callback.
    static OUTBOXES: RefCell<(Slab<Outbox>, u64)> = const { RefCell::new((Slab::new(), 0)) };
}

impl OutboxId {
    /// Makes the outbox of a source of this thread's loop.
    pub(super) fn open(source: SourceId) -> OutboxId {
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

    pub(super) fn with<T>(self, f: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
        OUTBOXES.with_borrow_mut(|(outboxes, _)| {
            outboxes
                .get_mut(self.key)
                .filter(|outbox| outbox.generation == self.generation)
                .map(f)
        })
    }

    /// Adds replies and sees to it that they are flushed.
    ///
    /// # Errors
    /// There is no outbox any more. The replies are dropped, but for the note of the calls that
    /// they end.
    pub(super) fn add(self, add: impl FnOnce(&mut Replies)) -> Result<(), Vec<EndedRun>> {
        OUTBOXES.with_borrow_mut(|(outboxes, _)| {
            let outbox = outboxes.get_mut(self.key);
            let Some(outbox) = outbox.filter(|outbox| outbox.generation == self.generation) else {
                return Err(ended_by(add));
            };
            add(&mut outbox.replies);
            if !std::mem::replace(&mut outbox.flush_asked, true) {
                flush_later(outbox.source);
            }
            Ok(())
        })
    }

    /// What was in it, unless it is closed already.
    pub(super) fn close(self) -> Option<Replies> {
        let outbox = OUTBOXES.with_borrow_mut(|(outboxes, _)| {
            let current = outboxes.get(self.key)?.generation == self.generation;
            current.then(|| outboxes.remove(self.key))
        });
        outbox.map(|outbox| outbox.replies)
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

    #[test]
    fn calls_that_end_alike_are_noted_together() {
        let arrived = Instant::now();
        let answer = |method| Answer {
            request_id: 7,
            method: MethodIndex::new(method),
            arrived,
            metadata: Metadata::new(),
        };
        let mut replies = Replies::default();
        for method in [0, 0, 1, 1, 1] {
            replies.add_end(&answer(method));
        }
        replies.add_error(&answer(1), RpcError::new(Code::NotFound, "no"));
        let runs: Vec<_> = replies
            .ended
            .iter()
            .map(|run| (run.code, run.count))
            .collect();
        assert_eq!(runs, [(Code::Ok, 2), (Code::Ok, 3), (Code::NotFound, 1)]);
        assert_eq!(replies.count, 6);
    }
}
