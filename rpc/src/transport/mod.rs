//! [`Transport`]: what carries a connection's bytes, TCP as it is or TLS over it.
//!
//! ```text
//!  Connection, Driver ──► Transport::Plain ─────────────────────────────► TCP
//!   (frames)          └─► Transport::Tls ──► TlsStream ──► records ─────► TCP
//!                                             rustls; no socket in it
//! ```
//!
//! Both are non-blocking and edge-triggered: a read or a write that cannot go on says `WouldBlock`,
//! and the socket reports when it can. Three things are different over TLS, and whoever uses a
//! transport asks for them: a short read does not mean that nothing more has arrived
//! ([`a_short_read_drains`](Transport::a_short_read_drains)), bytes that were taken may still have
//! to leave ([`has_unsent`](Transport::has_unsent)), and nothing can be written before the
//! handshake is over ([`is_handshaking`](Transport::is_handshaking)).
//!
//! Without the cargo feature `tls` there is TCP only: [`TlsServer`] and [`TlsClient`] have no
//! values.

#![cfg_attr(
    not(feature = "tls"),
    expect(
        clippy::unnecessary_wraps,
        reason = "what TLS can fail at, TCP alone cannot"
    )
)]

mod hello;
#[cfg(feature = "tls")]
mod tls_client;
#[cfg(feature = "tls")]
mod tls_files;
#[cfg(feature = "tls")]
mod tls_server;
#[cfg(feature = "tls")]
mod tls_stream;
#[cfg(feature = "tls")]
mod watched;
#[cfg(not(feature = "tls"))]
mod without_tls;

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

pub(crate) use hello::{TLS_WANTS_ANOTHER_PORT, is_client_hello};
#[cfg(feature = "tls")]
pub use tls_client::TlsClient;
#[cfg(feature = "tls")]
pub use tls_files::TlsError;
#[cfg(feature = "tls")]
pub use tls_server::TlsServer;
#[cfg(feature = "tls")]
use tls_stream::TlsStream;
#[cfg(not(feature = "tls"))]
pub use without_tls::{TlsClient, TlsServer};

/// The carrier of one connection's bytes.
pub(crate) enum Transport {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The server's end of a connection that was accepted. With TLS its handshake is still to come.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(crate) fn accepted(socket: TcpStream, tls: Option<&TlsServer>) -> io::Result<Transport> {
        match tls {
            None => Ok(Transport::Plain(socket)),
            #[cfg(feature = "tls")]
            Some(tls) => Ok(Transport::Tls(Box::new(tls.accept(socket)?))),
            #[cfg(not(feature = "tls"))]
            Some(tls) => match *tls {},
        }
    }

    /// The client's end of a connection that is made. With TLS its handshake is still to come, see
    /// [`handshake`](Transport::handshake).
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(crate) fn connected(socket: TcpStream, tls: Option<&TlsClient>) -> io::Result<Transport> {
        match tls {
            None => Ok(Transport::Plain(socket)),
            #[cfg(feature = "tls")]
            Some(tls) => Ok(Transport::Tls(Box::new(tls.connect(socket)?))),
            #[cfg(not(feature = "tls"))]
            Some(tls) => match *tls {},
        }
    }

    /// Registers the socket for everything that it may report.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(self.socket_mut(), token, interest)
    }

    /// Goes on with the handshake as far as the socket lets it; `true` once it is over, which a
    /// plain transport's always is. A server needs not ask: its reads do the same.
    ///
    /// # Errors
    /// When it cannot succeed any more. The text begins with what failed, as a clause.
    pub(crate) fn handshake(&mut self) -> io::Result<bool> {
        match self {
            Transport::Plain(_) => Ok(true),
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.handshake(),
        }
    }

    /// Whether the handshake is under way. Writes say `WouldBlock` until it is over, and no event
    /// tells that they can go on: a read does.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.is_handshaking(),
        }
    }

    /// Whether a read that did not fill its buffer has emptied the socket, so that the socket
    /// reports again when more arrives. Otherwise reads must go on until `WouldBlock`.
    pub(crate) fn a_short_read_drains(&self) -> bool {
        matches!(self, Transport::Plain(_))
    }

    /// Whether bytes that were taken wait for the socket. Writes send them first.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.has_unsent(),
        }
    }

    /// Sends of them what the socket takes.
    pub(crate) fn send_unsent(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.send_unsent(),
        }
    }

    /// Tells the peer that nothing more will be sent; again, if bytes were
    /// [unsent](Transport::has_unsent). What it still sends can be thrown away with
    /// [`discard`](Transport::discard).
    pub(crate) fn finish_writing(&mut self) {
        #[cfg(feature = "tls")]
        if let Transport::Tls(stream) = self {
            stream.say_goodbye();
            if stream.send_unsent().is_ok() && stream.has_unsent() {
                // The end of the stream would overtake them.
                return;
            }
        }
        // It fails if the peer has gone, which the next read tells.
        let _ = self.socket_mut().shutdown(Shutdown::Write);
    }

    /// Reads once and throws away what arrives: the bytes of the socket, whatever they mean. After
    /// it nothing can be read properly any more. 0 at the end of the stream.
    pub(crate) fn discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        self.socket_mut().read(scratch)
    }

    /// Whether the peer ended the connection for what our certificate is, or because we showed
    /// none. With TLS 1.3 it says so only after our side's handshake is over. It has listened to
    /// nothing.
    pub(crate) fn was_turned_away(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.was_turned_away(),
        }
    }

    /// The certificate that the peer has shown, in DER, and our side has verified; `None` without
    /// TLS, before the handshake is over, and for a client that was not asked for one.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        match self {
            Transport::Plain(_) => None,
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.peer_certificate(),
        }
    }

    /// The socket below.
    pub(crate) fn socket_mut(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.socket_mut(),
        }
    }
}

impl Read for Transport {
    /// As a socket's. `InvalidData`: the peer broke the rules of TLS, or speaks none; it was told
    /// so as far as it can understand, and what it still sends can only be
    /// [discarded](Transport::discard). `Interrupted`: try again, but let others have their turn.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.read(out),
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.write_vectored(bytes),
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.write_vectored(bytes),
        }
    }

    /// Sends what was taken; `WouldBlock` if the socket does not take all of it.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Transport::Tls(stream) => stream.flush(),
        }
    }
}
