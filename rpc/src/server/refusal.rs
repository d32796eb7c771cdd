//! [`Refusal`]: a connection over the limit, from its acceptance until it has been told so.
//!
//! Only a caller that speaks in frames can be told; a legacy caller would take the words for a
//! reply. So the first header that arrives decides, and without one the connection is just closed.
//! Over TLS that takes a handshake, and who comes to the wrong kind of port is told that instead.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::outbox::refusal_frame;
use super::shared::{RefusalSlot, ServerShared};
use crate::error::{Code, RpcError};
use crate::reactor::{Next, Ready, Source, Turn};
use crate::transport::{TLS_WANTS_ANOTHER_PORT, Transport, is_client_hello};
use crate::wire::{Limits, peek_dialect};

/// How long a caller has to begin a call, and then to take the words. There are few of them at a
/// time, and each holds a descriptor.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of the first header that are looked at; a longer one is not answered.
const HEAD_BYTES_MAX: usize = 4 << 10;

pub(super) struct Refusal {
    stream: Transport,
    peer: SocketAddr,
    limits: Limits,
    /// The start of what arrived; `None` once the caller was told.
    head: Option<Vec<u8>>,
    _slot: RefusalSlot,
}

impl Refusal {
    pub(super) fn open(
        socket: TcpStream,
        peer: SocketAddr,
        (server, slot): (&Arc<ServerShared>, RefusalSlot),
        turn: &mut Turn<'_>,
    ) -> Option<Refusal> {
        let tls = server.options.tls.as_ref();
        let stream = Transport::accepted(socket, tls).and_then(|mut stream| {
            stream.register(turn.registry, turn.token())?;
            Ok(stream)
        });
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%peer, %error, "a refused connection cannot be watched");
                return None;
            }
        };
        turn.alarm_by(Instant::now() + PATIENCE);
        Some(Refusal {
            stream,
            peer,
            limits: server.options.limits.clone(),
            head: Some(Vec::new()),
            _slot: slot,
        })
    }

    /// Looks at what arrived; after the caller was told, throws it away until it closes.
    fn read(&mut self, turn: &mut Turn<'_>) -> Next {
        let read = match &self.head {
            Some(_) => self.stream.read(turn.scratch),
            None => self.stream.discard(turn.scratch),
        };
        match read {
            Ok(0) => Next::Close,
            Ok(bytes) => {
                turn.again();
                let Some(head) = &mut self.head else {
                    return Next::Keep;
                };
                head.extend_from_slice(&turn.scratch[..bytes]);
                if is_client_hello(head) {
                    return self.tell(&TLS_WANTS_ANOTHER_PORT);
                }
                match peek_dialect(head, &self.limits) {
                    Ok(Some(framed)) if framed => self.tell_limit(),
                    Ok(None) if head.len() < HEAD_BYTES_MAX => Next::Keep,
                    _ => Next::Close,
                }
            }
            // The transport has told it what is wrong.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                turn.again();
                self.finish()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Keep,
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                turn.again();
                Next::Keep
            }
            Err(_) => Next::Close,
        }
    }

    fn tell_limit(&mut self) -> Next {
        let limit = self.limits.max_connections;
        let text = format!("the server has its {limit} connections (Limits::max_connections)");
        let frame = refusal_frame(&RpcError::new(Code::ResourceExhausted, text));
        tracing::debug!(peer = %self.peer, "a caller is told that there are too many");
        self.tell(&frame)
    }

    fn tell(&mut self, bytes: &[u8]) -> Next {
        // An empty socket takes a frame whole.
        match self.stream.write(bytes) {
            Ok(written) if written == bytes.len() => self.finish(),
            _ => Next::Close,
        }
    }

    /// The caller has a moment to read what it was told: closing a socket that holds unread bytes
    /// would reset the connection under it.
    fn finish(&mut self) -> Next {
        self.head = None;
        self.stream.finish_writing();
        Next::Keep
    }
}

impl Source for Refusal {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        if ready.broken {
            return Next::Close;
        }
        if ready.writable && self.stream.has_unsent() {
            match self.head {
                Some(_) if self.stream.send_unsent().is_err() => return Next::Close,
                Some(_) => {}
                None => self.stream.finish_writing(),
            }
        }
        self.read(turn)
    }

    fn on_notify(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }

    fn on_timer(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Close
    }

    fn on_flush(&mut self, _turn: &mut Turn<'_>) -> Next {
        Next::Keep
    }
}
