//! [`TlsStream`]: rustls between a non-blocking socket and whoever reads and writes plain bytes.
//!
//! ```text
//!            read()                                        write()
//!  plaintext ◄── rustls ◄── held ◄── SCRATCH ◄── socket ◄── rustls ◄── plaintext
//!               records, at most     one read,    at most RECORDS_BYTES_MAX
//!               64 KiB of them       of 64 KiB    of records unsent
//! ```
//!
//! The handshake is part of reading: each read takes what has arrived, and what rustls answers is
//! sent at once, or when the socket takes it. Writes wait until the handshake is over.
//!
//! Memory of one connection: `held` has at most [`SCRATCH_BYTES`], rustls keeps at most one record
//! (or a handshake message of 64 KiB), 16 KiB of plaintext and a little that one read brings over
//! it, and [`RECORDS_BYTES_MAX`] of unsent records.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};

use rustls::{AlertDescription, ClientConnection, Connection, ServerConnection};

use super::hello::{Hello, goaway, recognize};

/// Records read from the socket at once. rustls alone would read 4 KiB.
const SCRATCH_BYTES: usize = 64 << 10;

/// Records that may wait for the socket. Nothing is encrypted while any do, so this bounds what one
/// write encrypts.
const RECORDS_BYTES_MAX: usize = 64 << 10;

/// Reads of the socket that may bring nothing for the reader, before others have their turn.
const FRUITLESS_READS_MAX: usize = 4;

thread_local! {
    /// Where records arrive, so that an idle connection holds no memory for them.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
enum Failure {
    #[error("{0}{hint}", hint = hint(.0))]
    Protocol(rustls::Error),
    #[error("a plain caller at a TLS port")]
    PlainCaller,
    #[error("neither TLS nor a request at a TLS port")]
    Strange,
}

impl From<&Failure> for io::Error {
    fn from(failure: &Failure) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, failure.clone())
    }
}

/// What to look at, for the failures whose names do not say it.
fn hint(error: &rustls::Error) -> &'static str {
    let alert = match error {
        rustls::Error::AlertReceived(alert) => alert,
        rustls::Error::InvalidMessage(_) => return " (that is no TLS)",
        _ => return "",
    };
    match alert {
        AlertDescription::CertificateRequired => {
            " (the server asks for a client's certificate, see TlsClient::with_identity)"
        }
        AlertDescription::UnknownCA => " (the peer does not trust the root of our certificate)",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => " (the peer does not accept our certificate)",
        AlertDescription::ProtocolVersion => {
            " (the server does not speak TLS at this port, or another version of it)"
        }
        _ => "",
    }
}

pub(crate) struct TlsStream<S: Read + Write> {
    socket: S,
    tls: Connection,
    /// Of a server: the first bytes, until they say whether it is TLS that the peer speaks.
    hello: Option<Vec<u8>>,
    /// Records that were read and that rustls has not taken.
    held: Vec<u8>,
    /// Nothing is read or written any more. The peer was told.
    failure: Option<Failure>,
    /// The peer was told that nothing more comes.
    goodbye_said: bool,
}

impl<S: Read + Write> TlsStream<S> {
    /// The server's end.
    pub(super) fn accepted(socket: S, tls: ServerConnection) -> TlsStream<S> {
        TlsStream::over(socket, tls.into(), Some(Vec::new()))
    }

    /// The client's end.
    pub(super) fn connected(socket: S, tls: ClientConnection) -> TlsStream<S> {
        TlsStream::over(socket, tls.into(), None)
    }

    fn over(socket: S, mut tls: Connection, hello: Option<Vec<u8>>) -> TlsStream<S> {
        tls.set_buffer_limit(Some(RECORDS_BYTES_MAX));
        TlsStream {
            socket,
            tls,
            hello,
            held: Vec::new(),
            failure: None,
            goodbye_said: false,
        }
    }

    pub(super) fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether records wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    /// See [`Transport::was_turned_away`](super::Transport::was_turned_away).
    pub(super) fn was_turned_away(&self) -> bool {
        let Some(Failure::Protocol(rustls::Error::AlertReceived(alert))) = &self.failure else {
            return false;
        };
        matches!(
            alert,
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
        )
    }

    /// Sends of them what the socket takes.
    pub(super) fn send_unsent(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// The peer's own certificate, if it has shown one and it was verified.
    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        let verified = !self.tls.is_handshaking();
        let certificate = self.tls.peer_certificates().filter(|_| verified)?.first();
        certificate.map(|certificate| &**certificate)
    }

    /// See [`Transport::handshake`](super::Transport::handshake).
    pub(super) fn handshake(&mut self) -> io::Result<bool> {
        loop {
            self.send_unsent()?;
            if let Some(failure) = &self.failure {
                return Err(failure.into());
            }
            if !self.tls.is_handshaking() {
                return Ok(true);
            }
            match self.take_in(&mut []) {
                Ok(Taken::End) => {
                    let text = "the peer closed the connection";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
                }
                Ok(Taken::Plaintext(_)) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells the peer that nothing more will be sent. Nothing is heard after it either.
    pub(super) fn say_goodbye(&mut self) {
        // Who has not shown that it speaks TLS might take the goodbye for a reply.
        if self.hello.is_some()
            || self.failure.is_some()
            || std::mem::replace(&mut self.goodbye_said, true)
        {
            return;
        }
        self.tls.send_close_notify();
        // Whether the socket still takes it is not our affair any more.
        let _ = self.flush();
    }

    // ---- reading

    /// Takes what is held, or else what the socket has, and puts the plaintext of it into `out`.
    fn take_in(&mut self, out: &mut [u8]) -> io::Result<Taken> {
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            let (taken, filled) = self.feed(&held, out);
            if taken < held.len() {
                held.drain(..taken);
                self.held = held;
            }
            return Ok(Taken::Plaintext(filled));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let len = self.socket.read(scratch)?;
            let arrived = &scratch[..len];
            if len == 0 {
                // rustls remembers it, in case that somebody asks it for more.
                let _ = self.tls.read_tls(&mut io::empty());
                return Ok(Taken::End);
            }
            if let Some(hello) = &mut self.hello {
                hello.extend_from_slice(arrived);
                self.meet();
                return Ok(Taken::Plaintext(0));
            }
            let (taken, filled) = self.feed(arrived, out);
            self.held.extend_from_slice(&arrived[taken..]);
            Ok(Taken::Plaintext(filled))
        })
    }

    /// Looks at the first bytes of a client.
    fn meet(&mut self) {
        let hello = self.hello.take().unwrap_or_default();
        match recognize(&hello) {
            Hello::Unknown => self.hello = Some(hello),
            Hello::Tls => self.held = hello,
            Hello::Framed => {
                // A socket that has sent nothing yet takes these few bytes.
                let _ = self.socket.write(&goaway());
                self.failure = Some(Failure::PlainCaller);
            }
            Hello::Legacy => self.failure = Some(Failure::PlainCaller),
            Hello::Strange => self.failure = Some(Failure::Strange),
        }
    }

    /// Gives records to rustls until `out` is full, or, while the handshake is under way, all of
    /// them. Returns how many bytes it took and how many it put out.
    fn feed(&mut self, records: &[u8], out: &mut [u8]) -> (usize, usize) {
        let (mut rest, mut filled) = (records, 0);
        loop {
            match self.tls.reader().read(&mut out[filled..]) {
                // The peer has said goodbye; what comes after that does not count.
                Ok(0) if filled < out.len() => return (records.len(), filled),
                Ok(bytes) => filled += bytes,
                // Nothing more for the reader so far.
                Err(_) => {}
            }
            if self.failure.is_some() {
                return (records.len(), filled);
            }
            let full = filled == out.len() && !self.tls.is_handshaking();
            if rest.is_empty() || full {
                return (records.len() - rest.len(), filled);
            }
            match self.tls.read_tls(&mut rest) {
                Ok(_) => self.process(),
                // A handshake message over the limit.
                Err(error) => {
                    let reason = rustls::Error::General(error.to_string());
                    self.failure = Some(Failure::Protocol(reason));
                }
            }
        }
    }

    fn process(&mut self) {
        if let Err(error) = self.tls.process_new_packets() {
            self.failure = Some(Failure::Protocol(error));
        }
        // An answer of the handshake, or an alert. If the socket does not take it now, it is sent
        // when the socket reports that it can.
        let _ = self.flush();
    }
}

/// What was taken in.
enum Taken {
    /// Records, of which so many bytes of plaintext came.
    Plaintext(usize),
    /// The end of the stream.
    End,
}

impl<S: Read + Write> Read for TlsStream<S> {
    /// See [`Transport`](super::Transport)'s.
    ///
    /// A peer that closes without saying goodbye ends the stream as one that does: the frames above
    /// tell what is missing, and many clients do so.
    ///
    /// After our own goodbye this is the end of the stream.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.goodbye_said {
            // rustls may not be given records any more: it could have to alert the peer, after the
            // last that it said.
            return Ok(0);
        }
        for _ in 0..FRUITLESS_READS_MAX {
            match self.tls.reader().read(out) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(_) => {}
            }
            if let Some(failure) = &self.failure {
                return Err(failure.into());
            }
            match self.take_in(out)? {
                Taken::Plaintext(0) => {}
                Taken::Plaintext(bytes) => return Ok(bytes),
                Taken::End => return Ok(0),
            }
        }
        Err(ErrorKind::Interrupted.into())
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    /// Takes bytes if all that it took before has left: what waits is bounded by what one write
    /// takes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failure {
            return Err(failure.into());
        }
        self.flush()?;
        if self.tls.is_handshaking() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = self.tls.writer().write(bytes)?;
        self.send_unsent()?;
        Ok(taken)
    }

    /// Sends the records that wait; `WouldBlock` if the socket does not take all of them.
    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<S: Read + Write> Drop for TlsStream<S> {
    /// A peer that is told can tell our end from somebody who cut the line.
    fn drop(&mut self) {
        if !self.tls.is_handshaking() {
            self.say_goodbye();
        }
    }
}

#[cfg(test)]
#[path = "tls_stream_test.rs"]
mod tests;
