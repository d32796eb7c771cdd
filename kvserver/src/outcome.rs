//! What an applied entry answers to whoever proposed it.

use crate::command::SessionId;

/// What became of a log entry: the same on every node, because it follows from the log alone.
///
/// A repeated request is told apart from its first run for the sake of metrics and tests; a client
/// is answered alike ([`Outcome::reply`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The entry had nothing to answer: a leader's empty entry, or [`Op::BeginLegacy`](crate::Op::BeginLegacy).
    Nothing,
    /// A session was opened.
    SessionOpened(SessionId),
    /// The operation ran, and answers this.
    Applied(Reply),
    /// The operation had run before, and answered this then. Nothing changed.
    Repeated(Reply),
    /// The operation did not run, and will not if it is asked again in the same words.
    Refused(Refusal),
}

impl Outcome {
    /// The operation's reply, whether it ran now or had run before.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Outcome::Applied(reply) | Outcome::Repeated(reply) => Some(reply),
            Outcome::Nothing | Outcome::SessionOpened(_) | Outcome::Refused(_) => None,
        }
    }
}

/// An operation's answer, kept in its session until the client has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// The value would be larger than [`max_value_bytes`](crate::StateMachineOptions::max_value_bytes).
    /// Nothing changed.
    ValueTooLarge,
}

/// Why an operation did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The session is unknown: never opened, idle for too long, or the least recently used when
    /// another needed its place. Whether the request ran before cannot be told any more.
    SessionExpired,
    /// The client said before that it has seen this request's reply, so it cannot be waiting for it.
    StaleDuplicate,
    /// The request's number is more than [`MAX_REPLIES_PER_SESSION`](crate::MAX_REPLIES_PER_SESSION)
    /// beyond the replies that the client has seen.
    TooFarAhead,
    /// The legacy `ClientId` is longer than [`MAX_CLIENT_ID_BYTES`](crate::MAX_CLIENT_ID_BYTES).
    ClientIdTooLong,
}
