//! Connections that have made one call and then say nothing, and what a process holds in memory.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::certificate::server_name;
use crate::echo::{EchoArgs, EchoReply};

/// How long one connection may wait for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Bytes of the one call's payload.
const PAYLOAD_BYTES: usize = 16;

/// What `docs/wire.md` has in a request's header, as far as it is needed here.
#[derive(Clone, PartialEq, Message)]
struct RequestHead {
    #[prost(string, tag = "1")]
    service_name: String,
    #[prost(string, tag = "2")]
    method_name: String,
    #[prost(uint32, tag = "3")]
    args_size: u32,
    #[prost(uint64, tag = "4")]
    request_id: u64,
}

/// A frame from the server, without its body.
#[derive(Clone, PartialEq, Message)]
pub struct ReplyHead {
    /// The call's.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// 0: it succeeded.
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// Why it failed.
    #[prost(string, tag = "3")]
    pub error_text: String,
    /// Bytes that follow.
    #[prost(uint32, tag = "4")]
    pub body_size: u32,
    /// 0: it ends the call; 4: GOAWAY.
    #[prost(uint32, tag = "6")]
    pub kind: u32,
}

/// A connection that has asked for one echo.
pub struct IdleConnection {
    stream: Box<dyn Stream>,
}

/// A socket, or TLS over one.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl IdleConnection {
    /// Connects, over TLS if it is given, and sends the request.
    ///
    /// # Errors
    /// The system's, or the handshake's.
    pub fn ask(addr: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<IdleConnection> {
        let args = EchoArgs {
            payload: vec![0x5A; PAYLOAD_BYTES].into(),
        };
        let head = RequestHead {
            service_name: "Echo".to_owned(),
            method_name: "Echo".to_owned(),
            args_size: u32::try_from(args.encoded_len()).unwrap_or(u32::MAX),
            request_id: 1,
        };
        let mut frame = head.encode_length_delimited_to_vec();
        args.encode(&mut frame)?;
        let socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(tls) => {
                let session = ClientConnection::new(Arc::clone(tls), server_name())
                    .map_err(io::Error::other)?;
                Box::new(StreamOwned::new(session, socket))
            }
        };
        stream.write_all(&frame)?;
        stream.flush()?;
        Ok(IdleConnection { stream })
    }

    /// Waits for the frame that answers.
    ///
    /// # Errors
    /// The system's, or what comes is no frame.
    pub fn answer(&mut self) -> io::Result<ReplyHead> {
        let mut size = [0];
        self.stream.read_exact(&mut size)?;
        // No header here has 128 bytes or more, whose size would take two; but for a refusal.
        let mut size_bytes = usize::from(size[0] & 0x7f);
        if size[0] >= 0x80 {
            self.stream.read_exact(&mut size)?;
            size_bytes |= usize::from(size[0]) << 7;
        }
        let mut head = vec![0; size_bytes];
        self.stream.read_exact(&mut head)?;
        let head = ReplyHead::decode(&head[..])?;
        let mut body = vec![0; head.body_size as usize];
        self.stream.read_exact(&mut body)?;
        EchoReply::decode(&body[..])?;
        Ok(head)
    }

    /// Waits until the server has closed; what it sends before is thrown away.
    ///
    /// # Errors
    /// The system's; it did not close in time.
    pub fn wait_until_closed(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Bytes of its own (not of files) that a process has in memory.
///
/// # Errors
/// The process is gone, or `/proc` does not tell.
pub fn memory_of(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let (_, rest) = status
        .split_once("RssAnon:")
        .ok_or(io::ErrorKind::Unsupported)?;
    let kib = rest.split_whitespace().next().unwrap_or_default();
    let kib: u64 = kib.parse().map_err(io::Error::other)?;
    Ok(kib << 10)
}

/// Lets this process and its children have as many descriptors as the system allows them.
///
/// # Errors
/// Fewer than `needed` are allowed; the error says how to get more.
pub fn allow_descriptors(needed: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let text = format!("{needed} descriptors are needed: raise `ulimit -Hn`");
        return Err(io::Error::other(text));
    }
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::{Certificate, tls_server};

    #[test]
    fn an_idle_connection_has_made_its_call() {
        let server = crate::echo::serve(None).unwrap();
        let mut connection = IdleConnection::ask(server.local_addr(), None).unwrap();
        let head = connection.answer().unwrap();
        assert_eq!((head.request_id, head.code, head.kind), (1, 0, 0));
        assert_eq!(head.body_size, 18);
        assert_eq!(server.connections(), 1);
        drop(server);
        // A framed caller is asked to go first.
        connection.wait_until_closed().unwrap();
    }

    #[test]
    fn an_idle_connection_over_tls_has_made_its_call() {
        let certificate = Certificate::new().unwrap();
        let tls = tls_server(certificate.dir()).unwrap();
        let server = crate::echo::serve(Some(tls)).unwrap();
        let tls = certificate.client_config().unwrap();
        let mut connection = IdleConnection::ask(server.local_addr(), Some(&tls)).unwrap();
        let head = connection.answer().unwrap();
        assert_eq!((head.request_id, head.code, head.body_size), (1, 0, 18));
        drop(server);
        connection.wait_until_closed().unwrap();
        let plain = crate::echo::serve(None).unwrap();
        let asked = IdleConnection::ask(plain.local_addr(), Some(&tls));
        assert!(asked.is_err(), "it was sent in the clear");
    }

    #[test]
    fn a_process_has_memory_and_descriptors() {
        assert!(memory_of(std::process::id()).unwrap() > 100 << 10);
        allow_descriptors(16).unwrap();
        assert!(allow_descriptors(u64::MAX - 1).is_err() || cfg!(not(target_os = "linux")));
    }
}
