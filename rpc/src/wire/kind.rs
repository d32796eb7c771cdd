//! [`RequestKind`] and [`ReplyKind`]: what a frame means.

/// What a frame of the request direction means. Only calls have a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Begins a call.
    #[default]
    Call,
    /// Gives a call up.
    Cancel,
    /// Lets the server send more items of a stream.
    Credit,
    /// Asks for a [`ReplyKind::Pong`] with the same number.
    Ping,
    /// Answers a [`ReplyKind::Ping`].
    Pong,
    /// Says that no more calls will be begun on this connection.
    Goodbye,
    /// From a later version of this protocol; skipped.
    Unknown,
}

impl RequestKind {
    /// By their numbers on the wire.
    const ALL: [RequestKind; 6] = [
        RequestKind::Call,
        RequestKind::Cancel,
        RequestKind::Credit,
        RequestKind::Ping,
        RequestKind::Pong,
        RequestKind::Goodbye,
    ];

    pub(crate) fn from_number(number: u32) -> RequestKind {
        let known = Self::ALL.get(number as usize);
        known.copied().unwrap_or(RequestKind::Unknown)
    }
}

/// What a frame of the reply direction means. Only replies and items have a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    /// Ends a call.
    #[default]
    Reply,
    /// One message of a stream; the call goes on.
    Item,
    /// Answers a [`RequestKind::Ping`].
    Pong,
    /// Asks for a [`RequestKind::Pong`] with the same number.
    Ping,
    /// Asks the client to begin new calls elsewhere, or, with a code, says why none was begun.
    Goaway,
    /// From a later version of this protocol; skipped.
    Unknown,
}

impl ReplyKind {
    /// By their numbers on the wire.
    const ALL: [ReplyKind; 5] = [
        ReplyKind::Reply,
        ReplyKind::Item,
        ReplyKind::Pong,
        ReplyKind::Ping,
        ReplyKind::Goaway,
    ];

    pub(crate) fn from_number(number: u32) -> ReplyKind {
        let known = Self::ALL.get(number as usize);
        known.copied().unwrap_or(ReplyKind::Unknown)
    }
}
