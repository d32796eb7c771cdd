//! The first bytes of a connection, and what those get who came to the wrong kind of port.
//!
//! ```text
//!                 a plain port                         a TLS port
//!  framed caller  served                               GOAWAY (UNAVAILABLE, "this port speaks TLS")
//!  legacy caller  served                               closed: a bare reply cannot say why
//!  TLS client     fatal alert protocol_version         served
//! ```
//!
//! Two bytes tell them apart: TLS begins with `16 03` (a handshake record, of any version). As a
//! request that would be a header of 22 bytes that begins with the tag 3, and protobuf has no field
//! 0.

/// The first two bytes of a TLS client.
const CLIENT_HELLO: [u8; 2] = [0x16, 0x03];

/// What a TLS client at a plain port gets: an alert record (0x15, TLS 1.2, 2 bytes), fatal (2),
/// `protocol_version` (70).
pub(crate) const TLS_WANTS_ANOTHER_PORT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46];

/// Whether a connection that begins with these bytes is a TLS client's.
pub(crate) fn is_client_hello(bytes: &[u8]) -> bool {
    bytes.starts_with(&CLIENT_HELLO)
}

#[cfg(feature = "tls")]
pub(super) use of_a_tls_port::{Hello, goaway, recognize};

#[cfg(feature = "tls")]
mod of_a_tls_port {
    use crate::error::Code;
    use crate::wire::{Limits, ReplyHead, ReplyKind, peek_dialect, put_reply};

    use super::{CLIENT_HELLO, is_client_hello};

    /// Largest header that is waited for to tell a framed caller from a legacy one. Without it the
    /// caller could make us hold `Limits::max_header_bytes` to be refused.
    const HEADER_BYTES_MAX: u32 = 16 << 10;

    /// Who is at a TLS port.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in super::super) enum Hello {
        /// It takes more bytes to say.
        Unknown,
        Tls,
        /// A plain caller that reads frames.
        Framed,
        /// A plain caller that reads bare replies.
        Legacy,
        /// Neither TLS nor a request.
        Strange,
    }

    /// Tells from its first bytes who has connected.
    pub(in super::super) fn recognize(bytes: &[u8]) -> Hello {
        if is_client_hello(bytes) {
            return Hello::Tls;
        }
        if CLIENT_HELLO.starts_with(bytes) {
            return Hello::Unknown;
        }
        let limits = Limits {
            max_header_bytes: HEADER_BYTES_MAX,
            ..Limits::default()
        };
        match peek_dialect(bytes, &limits) {
            Ok(None) => Hello::Unknown,
            Ok(Some(true)) => Hello::Framed,
            Ok(Some(false)) => Hello::Legacy,
            Err(_) => Hello::Strange,
        }
    }

    /// What a framed caller at a TLS port gets.
    pub(in super::super) fn goaway() -> Vec<u8> {
        let head = ReplyHead {
            kind: ReplyKind::Goaway,
            code: Code::Unavailable.number(),
            error_text: "this port speaks TLS (set ChannelOptions::tls)".into(),
            refused: true,
            ..ReplyHead::default()
        };
        let no_body: Option<&()> = None;
        let mut frame = Vec::new();
        put_reply(&mut frame, &head, no_body);
        frame
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn callers_are_recognized_as_soon_as_possible_and_not_before() {
            let framed = b"\x0d\x0a\x04Echo\x12\x03Say\x20\x07";
            let legacy = b"\x0b\x0a\x04Echo\x12\x03Say";
            let cases: [(&[u8], usize, Hello); 7] = [
                (b"\x16\x03\x01\x02\x00", 2, Hello::Tls),
                (&framed[..], 14, Hello::Framed),
                (&legacy[..], 12, Hello::Legacy),
                (
                    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                    usize::MAX,
                    Hello::Unknown,
                ),
                (b"\xff\xff\xff\xff\xff", 5, Hello::Strange),
                (b"\x80\x80\x02", 3, Hello::Strange),
                (b"\x16\x0a", usize::MAX, Hello::Unknown),
            ];
            for (bytes, len, expected) in cases {
                for cut in 0..=bytes.len() {
                    let hello = recognize(&bytes[..cut]);
                    let awaited = if cut < len { Hello::Unknown } else { expected };
                    assert_eq!(hello, awaited, "{cut} of {}", bytes.escape_ascii());
                }
            }
        }
    }
}
