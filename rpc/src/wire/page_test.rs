//! The worked examples of `docs/wire.md` are read whole by our decoders, and written again byte
//! for byte by our encoders. `tests/wire_page.rs` plays them against a provider.

use super::frame::{Peeked, peek_reply, peek_request};
use super::header::{put_reply_head, put_request_head, reply_head_len, request_head_len};
use super::limits::Limits;
use super::varint::put_varint;
use page::{Sender, examples};

#[path = "../../tests/page/mod.rs"]
mod page;

#[test]
fn every_worked_example_is_what_the_code_reads_and_writes() {
    let limits = Limits::default();
    let mut frames = 0;
    for example in examples() {
        let legacy = example.title.starts_with("The C++ original");
        for step in example.steps {
            let place = format!("docs/wire.md:{}", step.line);
            let mut written = Vec::new();
            let (body_start, frame_bytes) = if step.sender == Sender::Caller {
                let Ok(Peeked::Complete(frame)) = peek_request(&step.bytes, &limits) else {
                    panic!("{place}: no whole request");
                };
                assert_eq!(frame.head.request_id == 0, legacy, "{place}");
                put_varint(&mut written, request_head_len(&frame.head) as u64);
                put_request_head(&mut written, &frame.head);
                (frame.body_start, frame.body_start + frame.body_size)
            } else if legacy {
                continue; // a bare message
            } else {
                let Ok(Some(frame)) = peek_reply(&step.bytes, &limits) else {
                    panic!("{place}: no whole reply");
                };
                put_varint(&mut written, reply_head_len(&frame.head) as u64);
                put_reply_head(&mut written, &frame.head);
                (frame.body_start, frame.body_start + frame.body_size)
            };
            assert_eq!(
                frame_bytes,
                step.bytes.len(),
                "{place}: bytes are left over or missing"
            );
            assert_eq!(step.bytes[..body_start], written, "{place}");
            frames += 1;
        }
    }
    assert!(frames >= 30, "the page has only {frames} frames");
}
