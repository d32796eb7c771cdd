//! What the tests of the server's newer frames share: the frames by hand, and a service whose
//! streams the test itself fills.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]
#![allow(clippy::cast_possible_truncation, reason = "test data")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use prost::Message;
use rpc::{
    Code, Done, ProviderHandle, ProviderOptions, ReplySlot, RpcContext, RpcProvider, Service,
    StreamError, StreamSender,
};

use crate::common::*;

// ---- frames by hand, see docs/wire.md

pub const CANCEL: u64 = 1;
pub const CREDIT: u64 = 2;
pub const PING: u64 = 3;
pub const PONG: u64 = 4;
pub const GOODBYE: u64 = 5;

/// Kinds of frames that a server sends.
pub mod kind {
    pub const REPLY: u64 = 0;
    pub const ITEM: u64 = 1;
    pub const PONG: u64 = 2;
    pub const PING: u64 = 3;
    pub const GOAWAY: u64 = 4;
}

/// The further fields of a request's header.
#[derive(Clone, Copy, Default)]
pub struct Extra<'a> {
    pub timeout_ms: u64,
    pub kind: u64,
    pub credit: u64,
    pub metadata: &'a [(&'a str, &'a str)],
    pub traceparent: &'a str,
}

fn text(tag: u8, text: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(varint(text.len() as u64));
    out.extend(text);
    out
}

/// A request of the service `Spring`, or, without a method, a frame that begins no call.
pub fn spring(method: &str, request_id: u64, data: impl AsRef<[u8]>, extra: Extra<'_>) -> Vec<u8> {
    let args = blob(data).encode_to_vec();
    let args = if method.is_empty() { &[][..] } else { &args };
    let mut header = Vec::new();
    if !method.is_empty() {
        header.extend(text(0x0a, b"Spring"));
        header.extend(text(0x12, method.as_bytes()));
    }
    for (tag, value) in [
        (0x18, args.len() as u64),
        (0x20, request_id),
        (0x28, extra.timeout_ms),
        (0x30, extra.kind),
        (0x38, extra.credit),
    ] {
        if value > 0 {
            header.push(tag);
            header.extend(varint(value));
        }
    }
    for (key, value) in extra.metadata {
        let entry = [text(0x0a, key.as_bytes()), text(0x12, value.as_bytes())].concat();
        header.extend(text(0x42, &entry));
    }
    if !extra.traceparent.is_empty() {
        header.extend(text(0x4a, extra.traceparent.as_bytes()));
    }
    let mut out = varint(header.len() as u64);
    out.extend(header);
    out.extend(args);
    out
}

/// A frame that begins no call.
pub fn control(kind: u64, request_id: u64, credit: u64) -> Vec<u8> {
    let extra = Extra {
        kind,
        credit,
        ..Extra::default()
    };
    spring("", request_id, "", extra)
}

/// A call of `Pour` with so much credit.
pub fn pour(request_id: u64, credit: u64) -> Vec<u8> {
    let extra = Extra {
        credit,
        ..Extra::default()
    };
    spring("Pour", request_id, "", extra)
}

/// A frame from the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub kind: u64,
    pub request_id: u64,
    pub code: u64,
    pub error_text: String,
    pub refused: bool,
    pub metadata: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Frame {
    /// The data of its message.
    pub fn data(&self) -> Bytes {
        Blob::decode(&self.body[..]).unwrap().data
    }

    pub fn is(&self, code: Code) -> bool {
        self.code == u64::from(code.number())
    }
}

fn take_varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for (position, &byte) in rest.iter().enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            *rest = &rest[position + 1..];
            return value;
        }
    }
    panic!("a varint that is cut off");
}

fn take_text(rest: &mut &[u8]) -> String {
    let len = take_varint(rest) as usize;
    let (text, after) = rest.split_at(len);
    *rest = after;
    String::from_utf8(text.to_vec()).unwrap()
}

pub fn receive_frame(socket: &mut Socket) -> Frame {
    let mut size = Vec::new();
    while size.last().is_none_or(|&byte| byte >= 0x80) {
        size.extend(socket.receive(1));
    }
    let header = socket.receive(take_varint(&mut &size[..]) as usize);
    let mut frame = Frame::default();
    let mut rest = &header[..];
    let mut body_size = 0;
    while !rest.is_empty() {
        match take_varint(&mut rest) {
            0x08 => frame.request_id = take_varint(&mut rest),
            0x10 => frame.code = take_varint(&mut rest),
            0x1a => frame.error_text = take_text(&mut rest),
            0x20 => body_size = take_varint(&mut rest) as usize,
            0x28 => frame.refused = take_varint(&mut rest) != 0,
            0x30 => frame.kind = take_varint(&mut rest),
            0x3a => {
                let entry = take_text(&mut rest);
                let mut entry = entry.as_bytes();
                let mut pair = (String::new(), String::new());
                while !entry.is_empty() {
                    match take_varint(&mut entry) {
                        0x0a => pair.0 = take_text(&mut entry),
                        _ => pair.1 = take_text(&mut entry),
                    }
                }
                frame.metadata.push(pair);
            }
            tag => panic!("tag {tag:#x} in a reply's header"),
        }
    }
    frame.body = socket.receive(body_size);
    frame
}

/// Sends a ping and returns what came before its pong. Everything that was sent before is heeded
/// by then.
pub fn until_pong(socket: &mut Socket) -> Vec<Frame> {
    const TOKEN: u64 = 77_777;
    socket.send(&control(PING, TOKEN, 0));
    let mut before = Vec::new();
    loop {
        let frame = receive_frame(socket);
        if frame.kind == kind::PONG {
            assert_eq!(frame.request_id, TOKEN);
            return before;
        }
        before.push(frame);
    }
}

// ---- a service with streams

/// A stream that the test fills.
pub struct Stream {
    pub context: RpcContext,
    pub args: Blob,
    pub sender: StreamSender<Blob>,
}

/// `Pour` hands its stream to the test; `Hold` its unary call; `Burst` sends bytes 0, 1, 2, ... in
/// the handler until it would have to wait, and fails with the number of items; `Mixed` is
/// streaming and answered as if it were not; `Odd` the reverse.
pub struct Spring {
    streams: Mutex<Sender<Stream>>,
    held: Mutex<Sender<Held>>,
}

impl Service for Spring {
    fn name(&self) -> &'static str {
        "Spring"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Pour", "Burst", "Mixed", "Odd", "Hold", "Say"]
    }

    fn is_streaming(&self, method: usize) -> bool {
        method < 3
    }

    fn call(&self, method: usize, context: RpcContext, args: Bytes, reply: ReplySlot) {
        let args = Blob::decode(args).unwrap();
        match self.methods()[method] {
            "Pour" => {
                let sender = StreamSender::new(reply);
                // The test may have ended, which ends the stream.
                let _ = self.streams.lock().unwrap().send(Stream {
                    context,
                    args,
                    sender,
                });
            }
            "Burst" => {
                let sender = StreamSender::new(reply);
                let mut items = 0u8;
                let error = loop {
                    match sender.send(&blob([items])) {
                        Ok(()) => items += 1,
                        Err(error) => break error,
                    }
                };
                assert_eq!(error, StreamError::WouldBlock);
                sender.fail(rpc::RpcError::new(Code::NotFound, items.to_string()));
            }
            "Odd" => {
                let sender = StreamSender::new(reply);
                assert!(matches!(sender.send(&args), Err(StreamError::Closed(_))));
                sender.finish();
            }
            "Hold" => {
                let done = Done::new(reply);
                let _ = self.held.lock().unwrap().send(Held {
                    context,
                    args,
                    done,
                });
            }
            // "Say", and "Mixed", which is streaming and should not be answered like this.
            _ => Done::new(reply).run(args),
        }
    }
}

pub struct SpringServer {
    pub handle: ProviderHandle,
    pub streams: Receiver<Stream>,
    pub held: Receiver<Held>,
}

impl SpringServer {
    pub fn socket(&self) -> Socket {
        Socket::connect(self.handle.local_addr())
    }

    pub fn next_stream(&self) -> Stream {
        self.streams.recv_timeout(LONG).expect("a call of Pour")
    }

    pub fn next_held(&self) -> Held {
        self.held.recv_timeout(LONG).expect("a call of Hold")
    }
}

pub fn one_thread() -> ProviderOptions {
    ProviderOptions {
        threads: 1,
        ..ProviderOptions::default()
    }
}

pub fn spring_service() -> (Spring, Receiver<Stream>, Receiver<Held>) {
    let (streams, streams_received) = channel();
    let (held, held_received) = channel();
    let spring = Spring {
        streams: Mutex::new(streams),
        held: Mutex::new(held),
    };
    (spring, streams_received, held_received)
}

pub fn serve_spring(options: ProviderOptions) -> SpringServer {
    let (spring, streams, held) = spring_service();
    let mut provider = RpcProvider::new(options);
    provider.notify_service(spring).unwrap();
    SpringServer {
        handle: provider.start("127.0.0.1:0").unwrap(),
        streams,
        held,
    }
}
