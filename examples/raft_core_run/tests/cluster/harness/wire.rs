//! The bytes of a call, written and read by other code than the one under test.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use prost::Message;

use super::wait::HANG_GUARD;

/// `RpcHeader` of the wire format.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestHeader {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) service_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) method_name: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(crate) args_size: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) request_id: u64,
}

/// `RpcReplyHeader` of the wire format.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReplyHeader {
    #[prost(uint64, tag = "1")]
    pub(crate) request_id: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) code: u32,
    #[prost(string, tag = "3")]
    pub(crate) error_text: String,
    #[prost(uint32, tag = "4")]
    pub(crate) body_size: u32,
}

/// The numbers of gRPC's codes.
pub(crate) const OK: u32 = 0;
pub(crate) const INVALID_ARGUMENT: u32 = 3;
pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
pub(crate) const UNIMPLEMENTED: u32 = 12;

/// A request as it goes over the wire. A `request_id` of 0 is the original's way to call.
pub(crate) fn request(service: &str, method: &str, request_id: u64, args: &[u8]) -> Vec<u8> {
    let header = RequestHeader {
        service_name: service.into(),
        method_name: method.into(),
        args_size: u32::try_from(args.len()).unwrap(),
        request_id,
    };
    let mut bytes = header.encode_length_delimited_to_vec();
    bytes.extend_from_slice(args);
    bytes
}

/// A connection on which a test writes what it likes.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(HANG_GUARD)).unwrap();
        stream.set_write_timeout(Some(HANG_GUARD)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// The same connection, for another thread.
    pub(crate) fn another_handle(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// Sends `bytes`; the other side may have closed before it took them all.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    pub(crate) fn has_no_more_to_send(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// The next reply, or `None` at the connection's end.
    pub(crate) fn reply(&mut self) -> Option<(ReplyHeader, Vec<u8>)> {
        let mut header_size = self.exactly(1)?;
        while header_size.last().is_some_and(|byte| byte & 0x80 != 0) {
            header_size.extend(self.exactly(1)?);
        }
        let header_size = prost::decode_length_delimiter(&header_size[..]).unwrap();
        let header = self.exactly(header_size)?;
        let header = ReplyHeader::decode(&header[..]).unwrap();
        let body = self.exactly(header.body_size as usize)?;
        Some((header, body))
    }

    /// All that comes before the other side closes.
    ///
    /// # Panics
    /// If it does not close.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
            assert!(
                is_reset,
                "the connection was neither answered nor closed: {error}"
            );
        }
        rest
    }

    fn exactly(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut content = vec![0; bytes];
        match (&self.0).read_exact(&mut content) {
            Ok(()) => Some(content),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                None
            }
            Err(error) => panic!("no reply: {error}"),
        }
    }
}
