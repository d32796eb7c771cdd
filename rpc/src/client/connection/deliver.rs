//! What the server says: replies and items to their calls, and words about the connection.

use super::{Broken, Connection};
use crate::client::pending::{Ended, Pending};
use crate::client::stream::Origin;
use crate::error::{Code, RpcError};
use crate::reactor::{self, Batch, Share};
use crate::wire::{ReplyHead, ReplyKind, check_body, peek_reply};

impl Connection {
    /// Takes frames that have arrived.
    pub(super) fn deliver(&mut self, share: Share) -> Result<(), Broken> {
        self.more_replies = false;
        let mut delivered = 0;
        let batch = Batch::of(self.input.unread().len(), share);
        loop {
            let unread = self.input.unread();
            // Of a reply whose header was looked at, the body has to arrive before it is again.
            if unread.is_empty() || unread.len() < self.frame_bytes {
                break;
            }
            self.frame_bytes = 0;
            if !batch.goes_on(delivered, unread.len()) {
                self.more_replies = true;
                break;
            }
            let limits = &self.shared.options.limits;
            let Some(frame) = peek_reply(unread, limits)? else {
                break;
            };
            let (head, frame_bytes) = (frame.head, frame.body_start + frame.body_size);
            let (id, kind) = (head.request_id, head.kind);
            if kind == ReplyKind::Goaway && head.code != Code::Ok.number() {
                let error = error_of(&head).with_may_have_executed(false);
                return Err(Broken::Refused(error));
            }
            delivered += 1;
            if !std::mem::replace(&mut self.proven, true) {
                self.shared.answered();
            }
            if !matches!(kind, ReplyKind::Reply | ReplyKind::Item) {
                self.input.discard(frame_bytes);
                self.on_control(kind, id);
                continue;
            }
            if let Err(error) = check_body(head.body_size, limits) {
                // The reply can be skipped, so it costs its own call only.
                self.input.discard(frame_bytes);
                let what = if kind == ReplyKind::Item {
                    "item"
                } else {
                    "reply"
                };
                let error = RpcError::new(Code::ResourceExhausted, format!("the {what}'s {error}"));
                self.fail_by_server(id, kind, error.with_may_have_executed(true));
                continue;
            }
            if unread.len() < frame_bytes {
                self.frame_bytes = frame_bytes;
                break;
            }
            if kind == ReplyKind::Item {
                let body = self.input.take(frame.body_start, frame.body_size);
                self.on_item(id, body);
                continue;
            }
            let error = (head.code != Code::Ok.number()).then(|| error_of(&head));
            let metadata = head.metadata.into_owned();
            let body = self.input.take(frame.body_start, frame.body_size);
            let result = error.map_or(Ok(body), Err);
            self.end_by_id(id, Ended { result, metadata });
        }
        if self.in_flight.expects_replies() {
            self.quiet_since = Some(reactor::now());
        }
        Ok(())
    }

    fn on_control(&mut self, kind: ReplyKind, id: u64) {
        match kind {
            ReplyKind::Pong => {
                // One of our own, or one that somebody waits for.
                let is_ping = |pending: &mut Pending| pending.method.is_none();
                if self.in_flight.get_mut(id).is_some_and(is_ping) {
                    self.end_by_id(id, Ok(bytes::Bytes::new()).into());
                }
            }
            ReplyKind::Ping => {
                self.pong_owed = Some(id);
                self.flush_wanted = true;
            }
            ReplyKind::Goaway => self.left = true,
            ReplyKind::Reply | ReplyKind::Item | ReplyKind::Unknown => {}
        }
    }

    fn on_item(&mut self, id: u64, body: bytes::Bytes) {
        let channel = &self.shared;
        let Some(pending) = self.in_flight.get_mut(id) else {
            tracing::debug!(peer = %self.shared.addr, id, "late item ignored");
            return;
        };
        let taken = if let Some(stream) = pending.stream() {
            stream.item(Origin { channel, id }, body)
        } else {
            let text = "the server answered with a stream: the method is streaming there";
            Err(RpcError::new(Code::Internal, text).with_may_have_executed(true))
        };
        match taken {
            Ok(0) => {}
            Ok(credit) => {
                self.grant(id, credit);
            }
            Err(error) => self.fail_by_server(id, ReplyKind::Item, error),
        }
    }

    /// What the server sent ends a call. One that goes on over there is cancelled.
    fn fail_by_server(&mut self, id: u64, kind: ReplyKind, error: RpcError) {
        if kind == ReplyKind::Item
            && let Some(pending) = self.in_flight.remove(id)
        {
            self.tell_canceled(id, &pending);
            self.end(pending, error.into());
            return;
        }
        self.end_by_id(id, error.into());
    }

    fn end_by_id(&mut self, id: u64, ended: Ended) {
        if let Some(pending) = self.in_flight.remove(id) {
            self.end(pending, ended);
        } else {
            // The call was given up, by its deadline or its caller.
            tracing::debug!(peer = %self.shared.addr, id, "late reply ignored");
        }
    }
}

fn error_of(head: &ReplyHead<'_>) -> RpcError {
    let text = head.error_text.clone().into_owned();
    let error = match Code::from_number(head.code) {
        Some(code) => RpcError::new(code, text),
        None => RpcError::new(
            Code::Internal,
            format!("unknown code {}: {text}", head.code),
        ),
    };
    error.with_may_have_executed(!head.refused)
}
