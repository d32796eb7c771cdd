//! [`Keepalive`]: how a peer that vanished without a word is noticed.

use std::time::{Duration, Instant};

use mio::net::TcpStream;

/// Probes that a peer's system may leave unanswered.
const TCP_PROBES: u32 = 4;

/// When a quiet connection is asked whether its peer is still there, and how long it may take to
/// answer. `Keepalive::default()`: after a minute, within 20 seconds.
///
/// Peers that speak in frames are asked with a PING of their own; any byte that arrives is a sign
/// of life. Legacy callers cannot be asked that way, so TCP's keepalive asks their system: one that
/// has vanished is noticed, one that is idle stays connected for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which a peer is asked. [`Duration::MAX`]: never. TCP counts it in whole
    /// seconds, at least one.
    pub after: Duration,
    /// The time that it has to answer; then the connection is given up.
    pub timeout: Duration,
}

impl Keepalive {
    /// Nobody is asked.
    pub const OFF: Keepalive = Keepalive {
        after: Duration::MAX,
        timeout: Duration::MAX,
    };

    /// When a peer that was heard at `heard` is asked; `None`: never.
    pub(crate) fn ask_at(&self, heard: Instant) -> Option<Instant> {
        heard.checked_add(self.after)
    }

    /// When a peer that was asked at `asked` is given up; `None`: never.
    pub(crate) fn give_up_at(&self, asked: Instant) -> Option<Instant> {
        asked.checked_add(self.timeout)
    }

    /// Has the system watch a socket in the same rhythm.
    pub(crate) fn watch(&self, stream: &TcpStream) {
        if let Err(error) = self.try_watch(stream) {
            // Without it a peer that vanished is noticed when something is sent to it.
            tracing::debug!(%error, "TCP keepalive cannot be set");
        }
    }

    fn try_watch(&self, stream: &TcpStream) -> rustix::io::Result<()> {
        use rustix::net::sockopt;

        /// The longest times that Linux takes.
        const SECONDS_MAX: u64 = 32_767;
        if self.after == Duration::MAX {
            return Ok(());
        }
        let seconds = |time: Duration| Duration::from_secs(time.as_secs().clamp(1, SECONDS_MAX));
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, seconds(self.after))?;
        sockopt::set_tcp_keepintvl(stream, seconds(self.timeout / TCP_PROBES))?;
        sockopt::set_tcp_keepcnt(stream, TCP_PROBES)
    }
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive {
            after: Duration::from_mins(1),
            timeout: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_watches_in_the_same_rhythm() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Keepalive::OFF.watch(&stream);
        assert!(!rustix::net::sockopt::socket_keepalive(&stream).unwrap());
        Keepalive::default().watch(&stream);
        assert!(rustix::net::sockopt::socket_keepalive(&stream).unwrap());
        let idle = rustix::net::sockopt::tcp_keepidle(&stream).unwrap();
        assert_eq!(idle, Duration::from_mins(1));
        let pause = rustix::net::sockopt::tcp_keepintvl(&stream).unwrap();
        assert_eq!(pause * TCP_PROBES, Duration::from_secs(20));
    }

    #[test]
    fn times_may_be_as_long_as_there_are() {
        let now = Instant::now();
        assert_eq!(Keepalive::OFF.ask_at(now), None);
        assert_eq!(Keepalive::OFF.give_up_at(now), None);
        assert!(Keepalive::default().ask_at(now).is_some());
    }
}
