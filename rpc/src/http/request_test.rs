//! What is a request, what is none, and that arriving in pieces changes nothing.

use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Request<'_> {
    match parse(text.as_bytes()) {
        Parsed::Request(request) => request,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn a_request_is_read_as_browsers_send_it() {
    let text =
        "GET /services?sort=p99&x HTTP/1.1\r\nHost: a:1\r\nAccept: */*\r\nX-Empty:\r\n\r\nmore";
    let expected = Request {
        head_only: false,
        path: "/services",
        query: "sort=p99&x",
    };
    assert_eq!(request(text), expected);
    assert!(request("HEAD / HTTP/1.0\n\n").head_only);
    assert_eq!(
        request("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").path,
        "/"
    );
}

#[test]
fn everything_else_is_refused_with_its_status() {
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    let endless = format!(
        "GET / HTTP/1.1\r\n{}",
        "a: b\r\n".repeat(HEAD_BYTES_MAX / 6 + 1)
    );
    for (text, status) in [
        ("POST / HTTP/1.1\r\n\r\n", 405),
        ("BREW / HTTP/1.1\r\n\r\n", 405),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("GET / FTP/1.0\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1 \r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\n\r\n", 400),
        ("GET /\u{e4} HTTP/1.1\r\n\r\n", 400),
        ("GET /\t HTTP/1.1\r\n\r\n", 400),
        ("get / HTTP/1.1\r\n\r\n", 400),
        (" GET / HTTP/1.1\r\n\r\n", 400),
        ("\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n: no name\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nname : x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\na: b\r\n continued\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\na: b\rc\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\na: \0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 413),
        ("GET / HTTP/1.1\r\ncontent-length:\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (long.as_str(), 431),
        (endless.as_str(), 431),
        ("\u{16}\u{3}\u{1}", 400),
        ("AAAAAAAAAAAAAAAAAAAAAAAA", 400),
    ] {
        let Parsed::Error(error) = parse(text.as_bytes()) else {
            panic!("{text:?} is no request");
        };
        assert_eq!(error.status(), status, "{text:?}: {error}");
    }
}

/// Requests, near-requests and noise.
fn arrivals() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "GET ", "HEAD ", "POST ", "/", "/metrics?a=b", " ", "HTTP/1.1", "HTTP/9", "\r\n",
            "\n", "\r", ":", "Host: x", "Content-Length: 0", "Content-Length: 1", "\r\n\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
        1 => (0_u8..=255, 0_usize..5_000).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let mixed = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    let valid = (
        "/[!-~]{0,40}",
        prop::collection::vec("[a-zA-Z-]{1,9}: ?[ -~]{0,30}", 0..6),
    )
        .prop_map(|(target, fields)| {
            let mut text = format!("GET {target} HTTP/1.1\r\n");
            for field in fields {
                text.push_str(&field);
                text.push_str("\r\n");
            }
            text.push_str("\r\nrest");
            text.into_bytes()
        });
    prop_oneof![mixed, valid]
}

proptest! {
    #[test]
    fn whatever_arrives_is_judged_alike_in_pieces(bytes in arrivals(), cut in any::<prop::sample::Index>()) {
        let whole = parse(&bytes);
        let start = &bytes[..cut.index(bytes.len() + 1)];
        match parse(start) {
            Parsed::Incomplete => prop_assert!(start.len() < HEAD_BYTES_MAX),
            judged => prop_assert_eq!(judged, whole),
        }
    }

    #[test]
    fn a_request_needs_its_empty_line_and_no_more(target in "/[!-~]{0,40}", field in "[a-w]{1,9}: [ -~]{0,30}") {
        let text = format!("GET {target} HTTP/1.1\r\n{field}\r\n\r\n");
        for len in 0..text.len() {
            prop_assert_eq!(parse(&text.as_bytes()[..len]), Parsed::Incomplete);
        }
        let Parsed::Request(request) = parse(text.as_bytes()) else {
            return Err(TestCaseError::fail("no request"));
        };
        let asked = match request.query {
            "" if !target.contains('?') => request.path.to_owned(),
            query => format!("{}?{query}", request.path),
        };
        prop_assert_eq!(asked, target);
    }
}
