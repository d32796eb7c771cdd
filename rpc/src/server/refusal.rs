//! [`Refusal`]: a connection over the limit, from its acceptance until it has been told so.
//!
//! Only a caller that speaks in frames can be told; a legacy caller would take the words for a
//! reply. So the first header that arrives decides, and without one the connection is just closed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::TcpStream;

use super::outbox::refusal_frame;
use super::registry::{RefusalSlot, ServerShared};
use crate::error::{Code, RpcError};
use crate::reactor::{Next, Ready, Source, Turn};
use crate::wire::{Limits, peek_dialect};

/// How long a caller has to begin a call, and then to take the words. There are few of them at a
/// time, and each holds a descriptor.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of the first header that are looked at; a longer one is not answered.
const HEAD_BYTES_MAX: usize = 4 << 10;

pub(super) struct Refusal {
    stream: TcpStream,
    peer: SocketAddr,
    limits: Limits,
    /// The start of what arrived; `None` once the caller was told.
    head: Option<Vec<u8>>,
    _slot: RefusalSlot,
}

impl Refusal {
    pub(super) fn open(
        mut stream: TcpStream,
        peer: SocketAddr,
        (server, slot): (&Arc<ServerShared>, RefusalSlot),
        turn: &mut Turn<'_>,
    ) -> Option<Refusal> {
        let token = turn.token();
        if let Err(error) = turn
            .registry
            .register(&mut stream, token, Interest::READABLE)
        {
            tracing::debug!(%peer, %error, "a refused connection cannot be watched");
            return None;
        }
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
        match self.stream.read(turn.scratch) {
            Ok(0) => Next::Close,
            Ok(bytes) => {
                turn.again();
                let Some(head) = &mut self.head else {
                    return Next::Keep;
                };
                head.extend_from_slice(&turn.scratch[..bytes]);
                match peek_dialect(head, &self.limits) {
                    Ok(Some(framed)) if framed => self.tell(),
                    Ok(None) if head.len() < HEAD_BYTES_MAX => Next::Keep,
                    _ => Next::Close,
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Keep,
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                turn.again();
                Next::Keep
            }
            Err(_) => Next::Close,
        }
    }

    fn tell(&mut self) -> Next {
        self.head = None;
        let limit = self.limits.max_connections;
        let text = format!("the server has its {limit} connections (Limits::max_connections)");
        let frame = refusal_frame(&RpcError::new(Code::ResourceExhausted, text));
        // An empty socket takes a frame whole. Then the caller has a moment to read it: closing a
        // socket that holds unread bytes would reset the connection under it.
        match self.stream.write(&frame) {
            Ok(bytes) if bytes == frame.len() => {
                tracing::debug!(peer = %self.peer, "a caller was told that there are too many");
                let _ = self.stream.shutdown(Shutdown::Write);
                Next::Keep
            }
            _ => Next::Close,
        }
    }
}

impl Source for Refusal {
    fn on_ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> Next {
        if ready.broken {
            return Next::Close;
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
