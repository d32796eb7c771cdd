//! What time brings: deadlines of calls, a server that has fallen silent, pings.

use std::time::{Duration, Instant};

use super::{Broken, Connection};
use crate::client::shared::ChannelShared;
use crate::error::{Code, RpcError};
use crate::reactor::WAIT_MAX;
use crate::wire::RequestKind;

/// The numbers of our own pings begin here, far from those of calls.
const FIRST_PING: u64 = 1 << 48;

impl Connection {
    /// Ends the calls whose time is up, and with them a connection that has fallen silent; pings.
    pub(in crate::client) fn on_timer(&mut self, now: Instant) -> Result<(), Broken> {
        let mut silent = None;
        while let Some((id, pending)) = self.in_flight.pop_expired(now) {
            let timeout = pending.timeout.unwrap_or(WAIT_MAX);
            let limit = self
                .shared
                .options
                .silence_limit
                .max(timeout.saturating_mul(2));
            let quiet = self
                .quiet_since
                .map(|since| now.saturating_duration_since(since));
            silent = silent.or(quiet.filter(|quiet| *quiet >= limit));
            self.tell_canceled(id, &pending);
            let error = expired(&self.shared, timeout).with_may_have_executed(true);
            self.end(pending, error.into());
        }
        if let Some(quiet) = silent {
            return Err(Broken::Silent(quiet.as_millis()));
        }
        self.keep_alive(now)
    }

    fn keep_alive(&mut self, now: Instant) -> Result<(), Broken> {
        let keepalive = &self.shared.options.keepalive;
        if let Some(pinged_at) = self.pinged_at {
            let waited = now.saturating_duration_since(pinged_at);
            if waited >= keepalive.timeout.min(WAIT_MAX) {
                return Err(Broken::NoPong(waited.as_millis()));
            }
        } else if now.saturating_duration_since(self.heard_at) >= self.quiet_max() {
            self.pinged_at = Some(now);
            self.pings += 1;
            self.put_control(RequestKind::Ping, FIRST_PING + self.pings, 0);
        }
        Ok(())
    }

    fn quiet_max(&self) -> Duration {
        self.shared.options.keepalive.after.min(WAIT_MAX)
    }

    /// When [`on_timer`](Connection::on_timer) has something to do. May be too early.
    pub(in crate::client) fn next_alarm(&self) -> Instant {
        let alive = match self.pinged_at {
            Some(pinged_at) => pinged_at + self.shared.options.keepalive.timeout.min(WAIT_MAX),
            None => self.heard_at + self.quiet_max(),
        };
        self.in_flight
            .next_deadline()
            .map_or(alive, |deadline| deadline.min(alive))
    }
}

/// How a call ends whose time is up.
pub(in crate::client) fn expired(shared: &ChannelShared, timeout: Duration) -> RpcError {
    let text = format!(
        "no reply from {} within {} ms",
        shared.addr,
        timeout.as_millis()
    );
    RpcError::new(Code::DeadlineExceeded, text)
}
