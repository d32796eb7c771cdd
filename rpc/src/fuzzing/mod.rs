//! What must hold whatever bytes a peer sends: one function a decoder, which panics when it does
//! not.
//!
//! The targets in `fuzz/` call these with made-up bytes, and the tests below with the bytes that
//! were found to take different ways (`fuzz/corpus/`). How to run it and what came out:
//! `docs/fuzzing.md`. Compiled for tests, and with the feature `fuzzing`; no part of the public
//! API.

mod frames;
mod headers;
mod http;

pub use frames::frame_decoder;
pub use headers::{rpc_header, rpc_reply_header};
pub use http::http_request;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Runs `target` on every file of its corpus. Which one it was stands in a panic's output.
    fn replay(name: &str, target: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let corpus = corpus.join(name);
        let mut files = 0;
        for entry in fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files >= 10, "{files} files in {}", corpus.display());
    }

    #[test]
    fn the_corpus_of_frames_holds() {
        replay("frame_decoder", super::frame_decoder);
    }

    #[test]
    fn the_corpus_of_request_headers_holds() {
        replay("rpc_header", super::rpc_header);
    }

    #[test]
    fn the_corpus_of_reply_headers_holds() {
        replay("rpc_reply_header", super::rpc_reply_header);
    }

    #[test]
    fn the_corpus_of_http_requests_holds() {
        replay("http_request", super::http_request);
    }
}
