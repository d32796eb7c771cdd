//! [`Stage`]: a connection that is being made, TCP first and then, if it is wanted, TLS.

use std::io::{self, ErrorKind};

use mio::net::TcpStream;

use crate::reactor::Ready;
use crate::transport::{TlsClient, Transport};

/// How far a connection has come that is being made.
pub(super) enum Stage {
    Tcp(TcpStream),
    /// Its handshake is under way.
    Tls(Transport),
}

/// What has become of a connection that is being made.
pub(super) enum Progress {
    Connecting(Stage),
    Connected(Transport),
}

impl Stage {
    /// Goes as far as the socket lets it.
    pub(super) fn go_on(self, ready: Ready, tls: Option<&TlsClient>) -> io::Result<Progress> {
        let mut stream = match self {
            Stage::Tcp(stream) => {
                let reported = ready.writable || ready.broken;
                if !reported || !outcome_of_connecting(&stream)? {
                    return Ok(Progress::Connecting(Stage::Tcp(stream)));
                }
                Transport::connected(stream, tls)?
            }
            Stage::Tls(stream) => stream,
        };
        let over = stream.handshake().map_err(|error| {
            io::Error::new(error.kind(), format!("the TLS handshake failed: {error}"))
        })?;
        Ok(if over {
            Progress::Connected(stream)
        } else {
            Progress::Connecting(Stage::Tls(stream))
        })
    }
}

/// Whether a socket that was connecting has connected; `false`: not yet.
fn outcome_of_connecting(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let peer = match stream.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
        Err(error) => return Err(error),
    };
    // Without a listener a socket can meet itself, if it is given the port that it asks for.
    if stream.local_addr()? == peer {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system gives a socket that connects to a free port of its own range that very port,
    /// sooner or later, and then it is connected to itself.
    #[test]
    fn a_socket_that_has_met_itself_is_not_connected() {
        /// The system tries one port after the other, and only half of them.
        const ATTEMPTS: usize = 200_000;
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = (33_000..60_000).step_by(1_002).find(|&port| free(port));
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port.expect("a port is free")));
        for _ in 0..ATTEMPTS {
            let Ok(stream) = std::net::TcpStream::connect(addr) else {
                continue;
            };
            if stream.local_addr().unwrap() != addr {
                continue; // Somebody has begun to listen there.
            }
            stream.set_nonblocking(true).unwrap();
            let outcome = outcome_of_connecting(&TcpStream::from_std(stream));
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            return;
        }
        eprintln!("skipped: no socket met itself in {ATTEMPTS} attempts");
    }
}
