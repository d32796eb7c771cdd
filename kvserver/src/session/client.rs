//! Sessions: opened by a log entry, named by its index, with many requests in flight.

use crate::command::{RequestId, SessionId};
use crate::outcome::Refusal;

use super::recency::{Limits, Moment, Recency};
use super::window::{ReplyWindow, Verdict};

/// Every open session.
pub(crate) type SessionTable = Recency<SessionId, ReplyWindow>;

impl SessionTable {
    /// Opens the session of the entry at `now`; the least recently used may go for it.
    pub(crate) fn open(&mut self, now: Moment, limits: Limits) -> SessionId {
        let id = SessionId::new(now.index);
        self.insert(id, ReplyWindow::default(), now);
        self.evict(limits);
        id
    }

    /// What is to be done about a session's request. Uses the session, whatever comes of it: its
    /// client is alive.
    pub(crate) fn admit(
        &mut self,
        id: SessionId,
        request: RequestId,
        replies_seen_upto: RequestId,
        now: Moment,
    ) -> Verdict<'_> {
        let Some(window) = self.touch(&id, now) else {
            return Verdict::Refused(Refusal::SessionExpired);
        };
        window.trim(replies_seen_upto);
        window.admit(request)
    }
}
