//! Just enough HTTP/1 to show a server to a browser and to Prometheus.
//!
//! ```text
//!   bytes ──► request::parse ──► pages::answer(&dyn Observed) ──► Answer ──► bytes, and the end
//! ```
//!
//! All of it is a function of its inputs; sockets are elsewhere: in the server's connections, where
//! the status pages share the port with the calls, and in `server/status_port.rs` where they have
//! their own. One request a connection, `GET` and `HEAD` only, no bodies, at most 8 KiB of head.

mod answer;
mod escape;
mod metrics;
mod pages;
mod request;

use answer::Answer;
pub(crate) use pages::Observed;
use pages::answer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use request::HEAD_BYTES_MAX;
pub(crate) use request::{Parsed, parse};

/// Whether a connection that begins with these bytes speaks HTTP; `None`: too few to tell.
///
/// No valid frame begins like this. As a frame, `G` (0x47) or `H` (0x48) is the size of a header of
/// 71 or 72 bytes, whose first byte `E` (0x45) says: field 8, as a number of 32 bits. Field 8 is
/// the call's metadata, which is never a number; and a caller that follows `docs/wire.md`, as well
/// as the C++ original, begins with field 1 (0x0a).
pub(crate) fn is_http(start: &[u8]) -> Option<bool> {
    let begins_like = |word: &[u8; 4]| {
        let len = start.len().min(word.len());
        start[..len] == word[..len]
    };
    if !(begins_like(b"GET ") || begins_like(b"HEAD")) {
        return Some(false);
    }
    (start.len() >= 4).then_some(true)
}

/// What a connection that speaks HTTP does with all bytes that have arrived on it; `None`: it waits
/// for more.
pub(crate) fn exchange(arrived: &[u8], observed: &dyn Observed) -> Option<Vec<u8>> {
    match parse(arrived) {
        Parsed::Incomplete => None,
        Parsed::Request(request) => Some(answer(&request, observed).encode(request.head_only)),
        Parsed::Error(error) => {
            Some(Answer::error(error.status(), &error.to_string()).encode(false))
        }
    }
}

/// The answer to one visitor too many.
pub(crate) fn refusal() -> Vec<u8> {
    Answer::error(503, "too many look at these pages").encode(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_frames_by_four_bytes() {
        assert_eq!(is_http(b""), None);
        assert_eq!(is_http(b"GE"), None);
        assert_eq!(is_http(b"HEA"), None);
        assert_eq!(is_http(b"GET /"), Some(true));
        assert_eq!(is_http(b"HEAD"), Some(true));
        assert_eq!(is_http(b"GEX"), Some(false));
        assert_eq!(is_http(b"POST / HTTP/1.1"), Some(false));
        assert_eq!(is_http(&[0x47, 0x0a]), Some(false));
    }
}
