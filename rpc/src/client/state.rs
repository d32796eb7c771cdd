//! [`ChannelState`]: what a channel knows about the way to its servers.

use std::fmt;

/// What a channel knows about the way to its server.
///
/// Of a channel to several addresses: the best of their states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// Not connected; the next call connects.
    Idle,
    /// Connecting, or connected for the first time after a failure and not answered yet.
    Connecting,
    /// Connected.
    Ready,
    /// The last attempt to connect failed, or the server refused the connection. Calls fail at
    /// once until the backoff has passed; then the next one tries again.
    Down {
        /// What happened, for a reader.
        reason: String,
    },
}

impl ChannelState {
    /// Whether this state is nearer to an answer than the other.
    pub(super) fn is_better_than(&self, other: &ChannelState) -> bool {
        self.rank() > other.rank()
    }

    fn rank(&self) -> u8 {
        match self {
            ChannelState::Down { .. } => 0,
            ChannelState::Idle => 1,
            ChannelState::Connecting => 2,
            ChannelState::Ready => 3,
        }
    }
}

impl fmt::Display for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelState::Idle => f.write_str("idle"),
            ChannelState::Connecting => f.write_str("connecting"),
            ChannelState::Ready => f.write_str("ready"),
            ChannelState::Down { reason } => write!(f, "down: {reason}"),
        }
    }
}
