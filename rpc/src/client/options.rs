//! How a channel behaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::interceptor::ClientInterceptor;
use crate::keepalive::Keepalive;
use crate::reactor::{EventLoops, WAIT_MAX};
use crate::transport::TlsClient;
use crate::wire::Limits;

/// The pauses between attempts to connect: doubling from `min` to `max`, each shortened by a
/// random part of up to a half, so that many clients of one server do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure. By default 50 ms.
    pub min: Duration,
    /// The longest pause. By default two seconds.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            min: Duration::from_millis(50),
            max: Duration::from_secs(2),
        }
    }
}

impl Backoff {
    /// The pause after so many failures in a row. `random` is uniform in [0, 1).
    pub(super) fn pause(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let longest = self.max.min(WAIT_MAX);
        let whole = self.min.saturating_mul(1 << doublings).min(longest);
        whole.mul_f64(1.0 - random / 2.0)
    }
}

/// Which failed calls a channel repeats, and when.
///
/// A call that failed with `UNAVAILABLE` is repeated if it was certainly not executed, or if its
/// controller says that it may be executed twice
/// ([`set_idempotent`](crate::RpcController::set_idempotent)); one that was refused with
/// `RESOURCE_EXHAUSTED` too. Streams are repeated until their first item has come. All of it
/// happens within the call's own deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a call is tried, the first time included. Trying every address of a channel to
    /// several counts as once. By default 3.
    pub max_attempts: u32,
    /// The pauses between two attempts. A pause lasts at least until a server that is down may be
    /// tried again. By default as between attempts to connect: 50 ms doubling to 2 s.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 3,
            backoff: Backoff::default(),
        }
    }
}

/// How a channel behaves. `ChannelOptions::default()` suits most. Times of more than 24 days count
/// as 24 days.
#[derive(Clone)]
pub struct ChannelOptions {
    /// The event loops to run on. `None`: one loop that all such channels of the process share.
    pub loops: Option<EventLoops>,
    /// The time that a call may take whose controller does not say; by default ten seconds. Streams
    /// have none.
    pub default_timeout: Duration,
    /// The time that connecting may take, the TLS handshake included. By default three seconds.
    pub connect_timeout: Duration,
    /// The pauses between attempts to connect, by default 50 ms doubling to 2 s. During a pause
    /// calls fail at once.
    pub backoff: Backoff,
    /// What the server may make us hold, and the largest arguments that we send.
    pub limits: Limits,
    /// Calls that may be under way at once to one server; further ones go to another, or fail with
    /// `RESOURCE_EXHAUSTED`. A server refuses what is beyond its own
    /// [`Limits::max_in_flight`], which is as large by default: 1024.
    pub max_in_flight: usize,
    /// Request bytes that may wait for the server to take them. A call that would exceed it goes to
    /// another, or fails with `RESOURCE_EXHAUSTED`, unless nothing else waits. By default 64 MiB.
    pub max_unsent_bytes: usize,
    /// When a call times out while the server has been silent for this long (and for twice that
    /// call's timeout) although calls were under way, the connection is given up as dead. The
    /// kernel alone would take minutes to notice a peer that vanished. By default ten seconds.
    pub silence_limit: Duration,
    /// When a quiet connection is asked whether it is alive, and when it is given up: all its calls
    /// end with `UNAVAILABLE`. By default after a minute of silence, and 20 seconds later.
    pub keepalive: Keepalive,
    /// What the server may send ahead of a stream's consumer: the items' bytes and 16 for each. One
    /// item may exceed it, so this and the largest item bound a stream's memory. At least 1; by
    /// default 256 KiB.
    pub stream_credit_bytes: u32,
    /// Speaks TLS. A server without it, or without the right certificate, is as good as none: calls
    /// fail with `UNAVAILABLE`. `None` (the default): TCP as it is.
    pub tls: Option<TlsClient>,
    /// Whether and when failed calls are repeated. `None` (the default): never.
    pub retry: Option<RetryPolicy>,
    /// What looks at each call, in this order.
    pub interceptors: Vec<Arc<dyn ClientInterceptor>>,
}

impl fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelOptions")
            .field("loops", &self.loops)
            .field("default_timeout", &self.default_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("backoff", &self.backoff)
            .field("limits", &self.limits)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_unsent_bytes", &self.max_unsent_bytes)
            .field("silence_limit", &self.silence_limit)
            .field("keepalive", &self.keepalive)
            .field("stream_credit_bytes", &self.stream_credit_bytes)
            .field("tls", &self.tls)
            .field("retry", &self.retry)
            .field("interceptors", &self.interceptors.len())
            .finish()
    }
}

impl Default for ChannelOptions {
    fn default() -> ChannelOptions {
        ChannelOptions {
            loops: None,
            default_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            backoff: Backoff::default(),
            limits: Limits::default(),
            max_in_flight: 1024,
            max_unsent_bytes: 64 << 20,
            silence_limit: Duration::from_secs(10),
            keepalive: Keepalive::default(),
            stream_credit_bytes: 256 << 10,
            tls: None,
            retry: None,
            interceptors: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_shortened_by_up_to_a_half() {
        let ms = Duration::from_millis;
        let backoff = Backoff {
            min: ms(100),
            max: ms(1000),
        };
        let whole: Vec<_> = (1..=6)
            .map(|failures| backoff.pause(failures, 0.0))
            .collect();
        assert_eq!(
            whole,
            [ms(100), ms(200), ms(400), ms(800), ms(1000), ms(1000)]
        );
        assert_eq!(backoff.pause(u32::MAX, 0.0), ms(1000));
        assert!(backoff.pause(1, 0.999) >= ms(50));
    }
}
