//! What is known of one connection while it is open.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::cells::Cell64;

/// What a connection's peer speaks; its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// It has sent nothing that tells.
    Unknown,
    /// Our frames: requests with a `request_id`.
    Framed,
    /// The C++ original's bytes: requests without a `request_id`, bare replies.
    Legacy,
    /// HTTP/1, for the status pages.
    Http,
}

impl Dialect {
    /// In lower case, as the pages and the logs write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Dialect::Unknown => "unknown",
            Dialect::Framed => "framed",
            Dialect::Legacy => "legacy",
            Dialect::Http => "http",
        }
    }
}

/// One open connection, at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The other end.
    pub peer: SocketAddr,
    /// What it speaks.
    pub dialect: Dialect,
    /// Calls begun and not answered.
    pub in_flight: u64,
    /// Bytes that the peer has not taken yet.
    pub unsent_bytes: u64,
    /// Bytes that have arrived.
    pub bytes_in: u64,
    /// Bytes that have left.
    pub bytes_out: u64,
    /// Since it was accepted.
    pub age: Duration,
    /// Since bytes last arrived.
    pub idle: Duration,
}

/// The same as one loop's thread counts it.
#[derive(Debug)]
pub(crate) struct ConnectionCells {
    peer: SocketAddr,
    opened: Instant,
    dialect: AtomicU8,
    in_flight: Cell64,
    unsent_bytes: Cell64,
    bytes_in: Cell64,
    bytes_out: Cell64,
    /// From `opened` to when bytes last arrived, see [`packed`].
    active: Cell64,
}

/// Bits of [`packed`] for the nanoseconds within a second.
const NANOS_BITS: u32 = 30;

/// A time span as one number, made without a division: seconds, then nanoseconds.
fn packed(time: Duration) -> u64 {
    time.as_secs() << NANOS_BITS | u64::from(time.subsec_nanos())
}

fn unpacked(number: u64) -> Duration {
    let nanos = number & ((1 << NANOS_BITS) - 1);
    Duration::from_secs(number >> NANOS_BITS) + Duration::from_nanos(nanos)
}

impl ConnectionCells {
    pub(crate) fn new(peer: SocketAddr, opened: Instant) -> ConnectionCells {
        ConnectionCells {
            peer,
            opened,
            dialect: AtomicU8::new(Dialect::Unknown as u8),
            in_flight: Cell64::default(),
            unsent_bytes: Cell64::default(),
            bytes_in: Cell64::default(),
            bytes_out: Cell64::default(),
            active: Cell64::default(),
        }
    }

    /// The peer has shown what it speaks.
    pub(crate) fn set_dialect(&self, dialect: Dialect) {
        self.dialect.store(dialect as u8, Relaxed);
    }

    /// Bytes have arrived.
    pub(crate) fn received(&self, bytes: usize, now: Instant) {
        self.bytes_in.add(bytes as u64);
        let active = now.saturating_duration_since(self.opened);
        self.active.set(packed(active));
    }

    /// Bytes have left.
    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_out.add(bytes as u64);
    }

    /// What the connection holds at the end of a turn.
    pub(crate) fn holds(&self, in_flight: usize, unsent_bytes: usize) {
        self.in_flight.set(in_flight as u64);
        self.unsent_bytes.set(unsent_bytes as u64);
    }

    /// What is known now, on any thread.
    pub(crate) fn info(&self, now: Instant) -> ConnectionInfo {
        let age = now.saturating_duration_since(self.opened);
        let active = unpacked(self.active.get());
        let dialect = [Dialect::Framed, Dialect::Legacy, Dialect::Http]
            .into_iter()
            .find(|&dialect| dialect as u8 == self.dialect.load(Relaxed))
            .unwrap_or(Dialect::Unknown);
        ConnectionInfo {
            peer: self.peer,
            dialect,
            in_flight: self.in_flight.get(),
            unsent_bytes: self.unsent_bytes.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            age,
            idle: age.saturating_sub(active),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_described_as_it_was_counted() {
        let opened = Instant::now();
        let peer = "127.0.0.1:7".parse().unwrap();
        let cells = ConnectionCells::new(peer, opened);
        assert_eq!(cells.info(opened).dialect, Dialect::Unknown);
        for dialect in [Dialect::Framed, Dialect::Legacy, Dialect::Http] {
            cells.set_dialect(dialect);
            assert_eq!(cells.info(opened).dialect, dialect);
        }
        cells.received(10, opened + Duration::from_secs(2));
        cells.received(11, opened + Duration::from_nanos(2_999_999_999));
        cells.sent(5);
        cells.holds(4, 99);
        let expected = ConnectionInfo {
            peer,
            dialect: Dialect::Http,
            in_flight: 4,
            unsent_bytes: 99,
            bytes_in: 21,
            bytes_out: 5,
            age: Duration::from_secs(10),
            idle: Duration::from_nanos(7_000_000_001),
        };
        assert_eq!(cells.info(opened + Duration::from_secs(10)), expected);
    }
}
