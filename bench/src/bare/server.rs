//! Answers each frame with the same frame.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Registry, Token};

use super::connection::{Connection, State};

const LISTENER: Token = Token(0);
const EVENTS: usize = 256;

/// Replies that a client may leave unread: the framework's default.
const UNSENT_BYTES_MAX: usize = 8 << 20;

/// Serves from the calling thread for ever.
///
/// # Errors
/// The system's: the loop itself cannot go on.
pub fn serve(mut listener: TcpListener) -> io::Result<Infallible> {
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut connections = BTreeMap::new();
    let mut next_token = 1;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Some(connection) = accept(&listener, poll.registry(), Token(next_token))?
                {
                    connections.insert(Token(next_token), connection);
                    next_token += 1;
                }
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                let state = connection.on_ready(|id, payload, output| {
                    output.push(id, payload);
                    Ok(())
                });
                if !matches!(state, Ok(State::Open)) {
                    connections.remove(&event.token());
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    registry: &Registry,
    token: Token,
) -> io::Result<Option<Connection>> {
    match listener.accept() {
        Ok((stream, _)) => {
            let mut connection = Connection::new(stream, UNSENT_BYTES_MAX)?;
            registry.register(
                &mut connection.stream,
                token,
                Interest::READABLE | Interest::WRITABLE,
            )?;
            Ok(Some(connection))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
