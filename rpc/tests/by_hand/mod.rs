//! A server that a test plays by hand, frame by frame.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use bytes::Bytes;
use prost::Message;

use crate::common::{Blob, LONG, blob};

/// What a request's header says, as `docs/wire.md` has it.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(string, tag = "1")]
    pub service: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(uint32, tag = "3")]
    pub args_size: u32,
    #[prost(uint64, tag = "4")]
    pub id: u64,
    #[prost(uint32, tag = "5")]
    pub timeout_ms: u32,
    #[prost(uint32, tag = "6")]
    pub kind: u32,
    #[prost(uint32, tag = "7")]
    pub credit: u32,
    #[prost(message, repeated, tag = "8")]
    pub metadata: Vec<Entry>,
    #[prost(string, tag = "9")]
    pub traceparent: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

pub fn entry(key: &str, value: &'static str) -> Entry {
    Entry {
        key: key.to_owned(),
        value: value.into(),
    }
}

/// What a reply's header says.
#[derive(Clone, PartialEq, Message)]
pub struct Reply {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint32, tag = "2")]
    pub code: u32,
    #[prost(string, tag = "3")]
    pub error_text: String,
    #[prost(uint32, tag = "4")]
    pub body_size: u32,
    #[prost(bool, tag = "5")]
    pub refused: bool,
    #[prost(uint32, tag = "6")]
    pub kind: u32,
    #[prost(message, repeated, tag = "7")]
    pub metadata: Vec<Entry>,
}

pub const CALL: u32 = 0;
pub const CANCEL: u32 = 1;
pub const CREDIT: u32 = 2;
pub const PING: u32 = 3;
pub const PONG: u32 = 4;
pub const GOODBYE: u32 = 5;

pub const ITEM: u32 = 1;
pub const REPLY_PONG: u32 = 2;
pub const REPLY_PING: u32 = 3;
pub const GOAWAY: u32 = 4;

/// A listener whose connections the test serves.
pub struct ByHand {
    listener: TcpListener,
    pub addr: SocketAddr,
}

impl ByHand {
    pub fn listen() -> ByHand {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        ByHand { listener, addr }
    }

    /// The next connection.
    pub fn accept(&self) -> Link {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Link { stream }
    }
}

/// One connection, from the server's end.
pub struct Link {
    pub stream: TcpStream,
}

impl Link {
    /// The next frame; `None` if the client has closed the connection.
    pub fn try_next(&mut self) -> Option<(Request, Bytes)> {
        let mut size = 0usize;
        for shift in (0..).step_by(7) {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame came: {error}"),
            }
            size |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut header = vec![0; size];
        self.stream.read_exact(&mut header).unwrap();
        let header = Request::decode(&header[..]).unwrap();
        let mut args = vec![0; header.args_size as usize];
        self.stream.read_exact(&mut args).unwrap();
        Some((header, args.into()))
    }

    /// The header of the next frame.
    pub fn next(&mut self) -> Request {
        self.try_next().expect("the connection was closed").0
    }

    /// The next frame, which begins a call.
    pub fn next_call(&mut self) -> Request {
        let header = self.next();
        assert_eq!(header.kind, CALL, "{header:?}");
        header
    }

    /// The next frame, which is one of control.
    pub fn expect(&mut self, kind: u32, id: u64) -> Request {
        let header = self.next();
        assert_eq!((header.kind, header.id), (kind, id), "{header:?}");
        header
    }

    pub fn send(&mut self, mut header: Reply, body: &[u8]) {
        header.body_size = body.len() as u32;
        let mut out = header.encode_length_delimited_to_vec();
        out.extend_from_slice(body);
        self.stream.write_all(&out).unwrap();
    }

    /// Ends a call well. A stream ends without data.
    pub fn reply(&mut self, id: u64, data: &str) {
        let body = Blob::encode_to_vec(&blob(data));
        self.send(
            Reply {
                id,
                ..Reply::default()
            },
            &body,
        );
    }

    /// Ends a call with a failure.
    pub fn fail(&mut self, id: u64, code: rpc::Code, refused: bool) {
        let header = Reply {
            id,
            code: code.number(),
            error_text: format!("by hand: {code}"),
            refused,
            ..Reply::default()
        };
        self.send(header, &[]);
    }

    /// Sends an item whose body has `data` and 2 bytes (up to 127 of data).
    pub fn item(&mut self, id: u64, data: impl AsRef<[u8]>) {
        let header = Reply {
            id,
            kind: ITEM,
            ..Reply::default()
        };
        self.send(header, &blob(data).encode_to_vec());
    }

    pub fn control(&mut self, kind: u32, id: u64) {
        let header = Reply {
            id,
            kind,
            ..Reply::default()
        };
        self.send(header, &[]);
    }

    pub fn go_away(&mut self, code: rpc::Code, text: &str) {
        let header = Reply {
            code: code.number(),
            error_text: text.to_owned(),
            kind: GOAWAY,
            ..Reply::default()
        };
        self.send(header, &[]);
    }
}
