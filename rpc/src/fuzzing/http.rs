//! Requests by HTTP: that arriving in pieces changes nothing, and what a request may look like.

use crate::http::{HEAD_BYTES_MAX, Parsed, is_http, parse};

/// Prefixes of long inputs that are looked at, besides all of the first ones.
const CUTS_MAX: usize = 32;

/// Takes `data` as all bytes that have arrived on a connection of HTTP.
///
/// Whatever a part of them is judged to be, all of them are; nobody waits beyond the longest head,
/// nor for bytes behind the empty line. A request names a path in printable ASCII that was sent
/// like that, an error has the status of one, and a request is told from a frame by its start.
///
/// # Panics
/// When one of that does not hold.
pub fn http_request(data: &[u8]) {
    let whole = parse(data);
    let head = &data[..data.len().min(HEAD_BYTES_MAX)];
    let step = (head.len() / CUTS_MAX).max(1);
    for cut in (0..head.len()).step_by(step) {
        let judged = parse(&head[..cut]);
        assert!(
            judged == Parsed::Incomplete || judged == whole,
            "{judged:?} after {cut} bytes, then {whole:?}"
        );
    }
    match &whole {
        Parsed::Incomplete => assert!(data.len() < HEAD_BYTES_MAX, "it waits for more"),
        Parsed::Request(request) => {
            assert_eq!(is_http(data), Some(true));
            assert_eq!(request.head_only, data.starts_with(b"HEAD "));
            let (path, query) = (request.path, request.query);
            assert!(path.starts_with('/') && !path.contains('?'), "{path:?}");
            let printable = |byte: u8| byte.is_ascii_graphic();
            assert!(path.bytes().chain(query.bytes()).all(printable));
            let target_start = if request.head_only { 5 } else { 4 };
            let sent = &data[target_start..];
            let sent = sent.strip_prefix(path.as_bytes()).expect("sent like that");
            assert!(query.is_empty() || sent[1..].starts_with(query.as_bytes()));
        }
        Parsed::Error(error) => {
            assert!([400, 405, 413, 431, 505].contains(&error.status()));
            assert!(!error.to_string().is_empty());
        }
    }
    // What follows the head is not looked at.
    if matches!(whole, Parsed::Request(_)) {
        let mut more = data.to_vec();
        more.extend_from_slice(b"POST \0");
        assert_eq!(parse(&more), whole);
    }
}
