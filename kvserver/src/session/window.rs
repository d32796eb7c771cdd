//! The replies of one session that may be asked for again.

use std::collections::VecDeque;

use crate::command::RequestId;
use crate::outcome::{Refusal, Reply};

/// How far a session's request numbers may run ahead of the replies its client has seen, and so how
/// many replies a session keeps at most. A request beyond it is refused, not run.
pub const MAX_REPLIES_PER_SESSION: u64 = 1024;

/// What a session knows of a request.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// Not run yet. Run it and put its reply here.
    New(&'a mut Option<Reply>),
    /// Run before, with this reply.
    Repeated(&'a Reply),
    /// Not to be run.
    Refused(Refusal),
}

/// A window over the request numbers of one session.
///
/// ```text
///   1 … seen_upto | seen_upto + 1 …                 … seen_upto + MAX_REPLIES_PER_SESSION | …
///   seen: forgotten   a reply, or not run yet (arrives in any order)                        refused
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplyWindow {
    /// Every request up to this one has been answered to the client. Never falls.
    seen_upto: u64,
    /// `replies[i]` is that of request `seen_upto + 1 + i`, if it has run. At most
    /// `MAX_REPLIES_PER_SESSION` long; the last one, if any, has run.
    replies: VecDeque<Option<Reply>>,
}

impl ReplyWindow {
    /// Rebuilds a window from a snapshot, if it is one that requests can have left behind.
    pub(crate) fn restore(seen_upto: u64, replies: VecDeque<Option<Reply>>) -> Option<ReplyWindow> {
        let valid = replies.len() as u64 <= MAX_REPLIES_PER_SESSION
            && replies.back().is_none_or(Option::is_some);
        valid.then_some(ReplyWindow { seen_upto, replies })
    }

    pub(crate) fn seen_upto(&self) -> u64 {
        self.seen_upto
    }

    pub(crate) fn replies(&self) -> &VecDeque<Option<Reply>> {
        &self.replies
    }

    /// Forgets the replies that the client has seen.
    pub(crate) fn trim(&mut self, seen_upto: RequestId) {
        let Some(seen) = seen_upto.get().checked_sub(self.seen_upto) else {
            return; // an older request, arriving late
        };
        let seen_replies =
            usize::try_from(seen).map_or(self.replies.len(), |seen| seen.min(self.replies.len()));
        self.replies.drain(..seen_replies);
        self.seen_upto = seen_upto.get();
        if self.replies.is_empty() {
            self.replies.shrink_to_fit(); // a burst's window must not stay reserved while idle
        }
    }

    /// What is to be done about a request.
    pub(crate) fn admit(&mut self, request: RequestId) -> Verdict<'_> {
        let Some(ahead) = request.get().checked_sub(self.seen_upto) else {
            return Verdict::Refused(Refusal::StaleDuplicate);
        };
        if ahead == 0 {
            return Verdict::Refused(Refusal::StaleDuplicate);
        }
        if ahead > MAX_REPLIES_PER_SESSION {
            return Verdict::Refused(Refusal::TooFarAhead);
        }
        let place = usize::try_from(ahead - 1).expect("at most MAX_REPLIES_PER_SESSION");
        if self.replies.len() <= place {
            self.replies.resize(place + 1, None);
        }
        match &mut self.replies[place] {
            Some(reply) => Verdict::Repeated(reply),
            empty @ None => Verdict::New(empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `request` if it is new; tells what came of it.
    fn ask(window: &mut ReplyWindow, request: u64) -> &'static str {
        match window.admit(RequestId::new(request)) {
            Verdict::New(reply) => {
                *reply = Some(Reply::Done);
                "ran"
            }
            Verdict::Repeated(_) => "repeated",
            Verdict::Refused(Refusal::StaleDuplicate) => "stale",
            Verdict::Refused(Refusal::TooFarAhead) => "too far",
            Verdict::Refused(_) => "refused",
        }
    }

    #[test]
    fn requests_run_once_in_any_order() {
        let mut window = ReplyWindow::default();
        for request in [3, 1, 2] {
            assert_eq!(ask(&mut window, request), "ran");
        }
        for request in [1, 2, 3] {
            assert_eq!(ask(&mut window, request), "repeated");
        }
        assert_eq!(ask(&mut window, 0), "stale");
    }

    #[test]
    fn seen_replies_are_forgotten_and_their_requests_refused() {
        let mut window = ReplyWindow::default();
        for request in 1..=5 {
            ask(&mut window, request);
        }
        window.trim(RequestId::new(3));
        assert_eq!(window.replies().len(), 2);
        assert_eq!(ask(&mut window, 3), "stale");
        assert_eq!(ask(&mut window, 4), "repeated");

        window.trim(RequestId::new(2)); // late
        assert_eq!(window.seen_upto(), 3);

        window.trim(RequestId::new(u64::MAX)); // nonsense, but its own
        assert_eq!(ask(&mut window, 6), "stale");
        assert_eq!(window.replies().capacity(), 0);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = ReplyWindow::default();
        assert_eq!(ask(&mut window, MAX_REPLIES_PER_SESSION + 1), "too far");
        assert_eq!(ask(&mut window, u64::MAX), "too far");
        assert_eq!(window.replies().len(), 0, "a refusal costs nothing");
        assert_eq!(ask(&mut window, MAX_REPLIES_PER_SESSION), "ran");
        assert_eq!(window.replies().len() as u64, MAX_REPLIES_PER_SESSION);

        window.trim(RequestId::new(1));
        assert_eq!(ask(&mut window, MAX_REPLIES_PER_SESSION + 1), "ran");
        assert_eq!(window.replies().len() as u64, MAX_REPLIES_PER_SESSION);
    }
}
