#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::service::MethodDescriptor;
use crate::wire::InputBuffer;

static METHOD: MethodDescriptor = MethodDescriptor {
    service: "Echo",
    method: "Say",
};

/// One bytes field, as the arguments of a call.
#[derive(Clone, PartialEq, Message)]
struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

fn request(data: &[u8], request_id: u64, timeout_ms: u32) -> Vec<u8> {
    let args = Blob {
        data: Bytes::copy_from_slice(data),
    };
    let size = args.encoded_len() as u32;
    let mut out = Vec::new();
    let head = RequestHead::call(&METHOD, size, request_id, timeout_ms);
    put_request(&mut out, &head, &args);
    assert_eq!(out.len(), request_len(&head));
    out
}

/// Feeds `bytes` in pieces of `cuts` bytes and returns the requests that come out.
fn decode_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Vec<(u64, u32, Bytes)>, FrameError> {
    let limits = Limits::default();
    let mut input = InputBuffer::default();
    let mut scratch = [0; 4096];
    let mut requests = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    let mut frame_bytes = 0;
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(cuts.next().map_or(1, |&cut| cut).min(rest.len()));
        rest = after;
        while !piece.is_empty() {
            input
                .read_from(&mut piece, &mut scratch, frame_bytes)
                .unwrap();
            loop {
                match peek_request(input.unread(), &limits)? {
                    Peeked::Incomplete { frame_bytes: bytes } => {
                        frame_bytes = bytes;
                        break;
                    }
                    Peeked::Complete(Frame {
                        head,
                        body_start,
                        body_size,
                    }) => {
                        let (id, timeout_ms) = (head.request_id, head.timeout_ms);
                        requests.push((id, timeout_ms, input.take(body_start, body_size)));
                    }
                }
            }
        }
    }
    Ok(requests)
}

proptest! {
    /// The original lost these: a request in two reads, two requests in one read.
    #[test]
    fn requests_survive_any_cut(
        calls in prop::collection::vec((any::<Vec<u8>>(), any::<u64>(), any::<u32>()), 1..8),
        cuts in prop::collection::vec(1usize..200, 1..8),
    ) {
        let bytes: Vec<u8> =
            calls.iter().flat_map(|(data, id, timeout)| request(data, *id, *timeout)).collect();
        let requests = decode_in_pieces(&bytes, &cuts).unwrap();
        prop_assert_eq!(requests.len(), calls.len());
        for ((id, timeout_ms, args), (data, sent_id, sent_timeout)) in requests.iter().zip(&calls) {
            prop_assert_eq!((id, timeout_ms), (sent_id, sent_timeout));
            prop_assert_eq!(&Blob::decode(args.clone()).unwrap().data[..], &data[..]);
        }
    }

    #[test]
    fn garbage_neither_panics_nor_is_believed_beyond_the_limits(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(1usize..50, 1..5),
    ) {
        let _ = decode_in_pieces(&bytes, &cuts);
        if let Ok(Some(frame)) = peek_reply(&bytes, &Limits::default()) {
            prop_assert!(frame.body_start <= bytes.len());
        }
        if let Ok(Peeked::Incomplete { frame_bytes }) = peek_request(&bytes, &Limits::default()) {
            prop_assert!(frame_bytes <= (64 << 10) + 5 + (64 << 20));
        }
    }

    #[test]
    fn replies_are_read_as_written(request_id: u64, code: u32, text: String, data: Vec<u8>) {
        let body = Blob { data: data.into() };
        let head = ReplyHead {
            request_id,
            code,
            error_text: text.into(),
            body_size: body.encoded_len() as u32,
            refused: false,
            ..ReplyHead::default()
        };
        let mut out = Vec::new();
        put_reply(&mut out, &head, Some(&body));
        prop_assert_eq!(out.len(), reply_len(&head));
        let frame = peek_reply(&out, &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(&frame.head, &head);
        prop_assert_eq!(&out[frame.body_start..], &body.encode_to_vec()[..]);
        prop_assert_eq!(frame.body_start + frame.body_size, out.len());
    }
}

#[test]
fn sizes_are_refused_before_their_bytes_arrive() {
    let limits = Limits {
        max_header_bytes: 100,
        max_body_bytes: 1000,
        ..Limits::default()
    };
    let error = peek_request(&[101], &limits).unwrap_err();
    assert!(
        matches!(
            error,
            FrameError::HeaderTooLarge {
                size: 101,
                limit: 100
            }
        ),
        "{error}"
    );
    let error = peek_request(&[0xff, 0xff, 0xff, 0xff, 0x0f], &limits).unwrap_err();
    assert!(
        matches!(error, FrameError::HeaderTooLarge { size: u32::MAX, .. }),
        "{error}"
    );
    // args_size 1001 in a header of three bytes.
    let error = peek_request(&[3, 0x18, 0xe9, 0x07], &limits).unwrap_err();
    assert!(
        matches!(
            error,
            FrameError::BodyTooLarge {
                size: 1001,
                limit: 1000
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("max_body_bytes"),
        "it names the option: {error}"
    );
    // At the limit it is only incomplete.
    let peeked = peek_request(&[3, 0x18, 0xe8, 0x07], &limits).unwrap();
    assert_eq!(peeked, Peeked::Incomplete { frame_bytes: 1004 });
}

#[test]
fn broken_headers_are_told_apart() {
    let limits = Limits::default();
    assert!(matches!(
        peek_request(&[0xff; 6], &limits),
        Err(FrameError::HeaderSize)
    ));
    assert!(matches!(
        peek_request(&[2, 0x0a, 0x05], &limits),
        Err(FrameError::Header(_))
    ));
    assert!(matches!(
        peek_reply(&[2, 0x1a, 0x05], &limits),
        Err(FrameError::Header(_))
    ));
}

/// An entry takes two bytes on the wire and many times that in memory.
#[test]
fn a_header_has_so_many_entries_of_metadata_and_no_more() {
    /// Of a field that nobody knows, which only prost skips.
    const UNKNOWN: [u8; 2] = [0x78, 1];
    let limits = Limits::default();
    let framed = |tag: u8, entries: usize, rest: &[u8]| {
        let header = [[tag, 0].repeat(entries), rest.to_vec()].concat();
        let mut out = Vec::new();
        put_varint(&mut out, header.len() as u64);
        [out, header].concat()
    };
    for rest in [&[][..], &UNKNOWN] {
        let request = framed(0x42, METADATA_ENTRIES_MAX, rest);
        let Peeked::Complete(frame) = peek_request(&request, &limits).unwrap() else {
            panic!("it is whole");
        };
        assert_eq!(frame.head.metadata.len(), METADATA_ENTRIES_MAX);
        let reply = framed(0x3a, METADATA_ENTRIES_MAX, rest);
        let frame = peek_reply(&reply, &limits).unwrap().unwrap();
        assert_eq!(frame.head.metadata.len(), METADATA_ENTRIES_MAX);

        for entries in [METADATA_ENTRIES_MAX + 1, 32_000] {
            let refused = |error: FrameError| {
                let counted = FrameError::TooManyEntries { entries };
                assert_eq!(error.to_string(), counted.to_string());
            };
            let request = framed(0x42, entries, rest);
            refused(peek_request(&request, &limits).unwrap_err());
            refused(peek_dialect(&request, &limits).unwrap_err());
            refused(peek_reply(&framed(0x3a, entries, rest), &limits).unwrap_err());
        }
    }
}

/// The bytes of the C++ original, as captured: Put hello=world.
#[test]
fn the_originals_put_is_read() {
    let client_id = b"171463691516816927778469308861804289383";
    let mut bytes = vec![0x1a, 0x0a, 0x0b];
    bytes.extend(b"kvServerRpc");
    bytes.extend([0x12, 0x09]);
    bytes.extend(b"PutAppend");
    bytes.extend([0x18, 0x3e, 0x0a, 0x05]);
    bytes.extend(b"hello\x12\x05world\x1a\x03Put\x22\x27");
    bytes.extend(client_id);
    bytes.extend([0x28, 0x01]);
    assert_eq!(bytes.len(), 89);
    let Peeked::Complete(frame) = peek_request(&bytes, &Limits::default()).unwrap() else {
        panic!("it is whole");
    };
    assert_eq!(&*frame.head.service_name, b"kvServerRpc");
    assert_eq!(&*frame.head.method_name, b"PutAppend");
    assert_eq!(
        (
            frame.head.args_size,
            frame.head.request_id,
            frame.head.timeout_ms
        ),
        (62, 0, 0)
    );
    assert_eq!((frame.body_start, frame.body_size), (27, 62));
}

/// A peer may send a large header, and then a body byte by byte.
#[test]
fn a_header_is_looked_at_once_before_its_body_is_there_and_once_after() {
    let limits = Limits::default();
    let frames = [request(&[7; 1_000], 1, 0), request(b"x", 2, 0)].concat();
    let first_bytes = frames.len() - request(b"x", 2, 0).len();
    let mut front = FrontFrame::default();
    let mut looks = 0;
    let mut peek = |have: usize| {
        let peeked = front.peek(&frames[..have], |input| {
            looks += 1;
            peek_request(input, &limits)
        });
        (peeked.unwrap(), front.bytes(), looks)
    };
    let header_bytes = first_bytes - 1_003;
    for have in 1..header_bytes {
        let incomplete = Peeked::Incomplete { frame_bytes: 0 };
        assert_eq!(peek(have), (incomplete, 0, have), "{have} bytes");
    }
    for have in header_bytes..first_bytes {
        let incomplete = Peeked::Incomplete {
            frame_bytes: first_bytes,
        };
        let expected = (incomplete, first_bytes, header_bytes);
        assert_eq!(peek(have), expected, "{have} bytes");
    }
    let (peeked, frame_bytes, looks) = peek(frames.len());
    assert!(
        matches!(&peeked, Peeked::Complete(frame) if frame.body_size == 1_003),
        "{peeked:?}"
    );
    assert_eq!((frame_bytes, looks), (0, header_bytes + 1));
}
