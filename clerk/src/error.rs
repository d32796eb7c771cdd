//! What a call may end with, apart from its reply.
//!
//! A write has three outcomes: done (`Ok`), certainly not done, and unknown. Unknown is what is
//! left when a request may have reached a leader's log and no reply of the state machine came back:
//! the write may have taken effect, or may still do so. [`ClerkError::may_have_taken_effect`] tells
//! the two kinds of error apart; a read is never unknown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proto::cluster::ClusterFileError;

/// Why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClerkError {
    /// Certainly not done: no node took the request before the deadline.
    #[error(
        "no leader found among {nodes} nodes within {}; last: {last}; nothing was done: \
         see that a majority of the nodes runs, then try again", Seconds(*.within)
    )]
    NoLeader {
        /// How many nodes the clerk was given.
        nodes: usize,
        /// The call's timeout.
        within: Duration,
        /// What the last node asked had to say.
        last: LastFailure,
    },

    /// Certainly not done: too much is under way, in this clerk or in the cluster. Send less, or
    /// later.
    #[error("{what}; nothing was done: try again later, with fewer calls at once")]
    Overloaded {
        /// Who has too much to do, and how much that is.
        what: String,
    },

    /// Certainly not done, and asking again would not help.
    #[error("{by} refused the request: {text}; nothing was done")]
    Refused {
        /// The node that refused it.
        by: NodeName,
        /// Its reason.
        text: String,
    },

    /// Unknown: the deadline came before a reply that the write is done.
    #[error(
        "the outcome is unknown: the write may have taken effect, or may still do so (no reply \
         within {}; last: {last}): read the key before writing it again", Seconds(*.within)
    )]
    OutcomeUnknown {
        /// The call's timeout.
        within: Duration,
        /// What the last node asked had to say.
        last: LastFailure,
    },

    /// Unknown: the cluster forgot the session (idle for too long) between two tries of the write,
    /// so nobody can tell whether the first one counted. It cannot take effect later.
    #[error(
        "the outcome is unknown: the session expired while the write was being retried \
         (said by {by}): read the key before writing it again"
    )]
    SessionExpired {
        /// The node that said so.
        by: NodeName,
    },
}

impl ClerkError {
    /// Whether the write may have been done, or may still be: only then must the caller look at
    /// the key before it repeats the write. Always false for a read.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::OutcomeUnknown { .. } | Self::SessionExpired { .. } => true,
            Self::NoLeader { .. } | Self::Overloaded { .. } | Self::Refused { .. } => false,
        }
    }
}

/// A node as an operator knows it: `node 1 (127.0.0.1:29017)`, numbered as in the cluster file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// Its place in the cluster file, from 0; `None` for a node known by a hint only.
    pub number: Option<usize>,
    /// Where it was asked.
    pub addr: SocketAddr,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "node {number} ({})", self.addr),
            None => write!(f, "{} (named as leader by another node)", self.addr),
        }
    }
}

/// The last thing that went wrong in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// The node asked; `None` if none was.
    pub by: Option<NodeName>,
    /// What it said, or how asking it failed.
    pub text: String,
}

impl fmt::Display for LastFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            Some(by) => write!(f, "{by}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Why no clerk could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The cluster file could not be read; its error names the file and the line.
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),

    /// The list of nodes is empty.
    #[error("the list of nodes is empty: name at least one")]
    NoNodes,

    /// A thread (event loop or timer) could not be started.
    #[error("cannot start the clerk's threads")]
    Threads(#[source] io::Error),
}

/// `10 s`, `0.25 s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_node_the_cause_and_what_to_do() {
        let error = ClerkError::NoLeader {
            nodes: 3,
            within: Duration::from_secs(10),
            last: LastFailure {
                by: Some(NodeName {
                    number: Some(1),
                    addr: "127.0.0.1:29017".parse().unwrap(),
                }),
                text: "connection refused".into(),
            },
        };
        assert_eq!(
            error.to_string(),
            "no leader found among 3 nodes within 10 s; last: node 1 (127.0.0.1:29017): connection \
             refused; nothing was done: see that a majority of the nodes runs, then try again"
        );
    }
}
