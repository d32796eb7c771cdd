//! What can be set about a clerk.

use std::time::Duration;

use rpc::EventLoops;

use crate::logic::Backoff;

/// How a clerk behaves. The defaults suit a cluster with default timeouts.
#[derive(Clone, Debug)]
pub struct ClerkOptions {
    /// How long a call is tried before it ends with an error. Default: 10 s.
    pub timeout: Duration,

    /// How long a node may take to answer before another one is asked. Default: 1 s, over twice
    /// the longest election: a leader that is paused or cut off holds a call up no longer than that.
    ///
    /// Doubled each time it passes within one call, so that a leader that is merely slow gets the
    /// time it needs instead of the same request again and again.
    pub attempt_timeout: Duration,

    /// The pause after every node was asked in vain, and after a node refused for overload.
    pub backoff: Backoff,

    /// How many writes may be unfinished before the next one waits; the cluster remembers as many
    /// replies for this clerk's session. Default: 512. At least 1.
    pub window: usize,

    /// How many calls may be under way or waiting. Above it blocking calls wait, and callback calls
    /// end with [`ClerkError::Overloaded`](crate::ClerkError::Overloaded). Default: 1024, what a node
    /// takes from one connection: beyond that it refuses, and the clerk asks again. At least 1.
    pub max_outstanding: usize,

    /// The event loops that carry the connections. Default: one loop, shared by all clerks of the
    /// process.
    pub loops: Option<EventLoops>,

    /// How old the list of the cluster's members may be before a node that has just answered is asked
    /// for it, in the background; sooner when another node leads. Default: 10 s. What was configured
    /// stays, as the last to be asked. `None`: nobody is asked, which suits clients that reach the
    /// nodes at other addresses than the nodes each other.
    pub refresh_members: Option<Duration>,

    /// Fixes the jitter and the order in which nodes are tried first, for tests. Default: random.
    pub seed: Option<u64>,
}

/// Which node answers a read. It is linearizable either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// The leader: one round trip for the client.
    #[default]
    Leader,
    /// Any node: it asks the leader from where on its own state answers, and waits until it is there.
    /// Takes reads off the leader, and costs one more trip. A clerk stays with one node until that
    /// fails; each clerk begins with another.
    Any,
}

impl Default for ClerkOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(1),
            backoff: Backoff::default(),
            window: 512,
            max_outstanding: 1024,
            loops: None,
            refresh_members: Some(Duration::from_secs(10)),
            seed: None,
        }
    }
}
