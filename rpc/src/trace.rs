//! [`TraceContext`]: which trace a call belongs to (W3C Trace Context, level 1).

use std::fmt;

use tracing::Level;
use tracing::level_filters::LevelFilter;

/// The value of a `traceparent`: the trace, and the span in it that a call is made from.
///
/// ```text
/// 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
///  version   trace id (16 bytes)       span id (8 bytes) flags: bit 0: sampled
/// ```
///
/// A call has a `tracing` span on either side, of level DEBUG, with its `trace_id`. What links the
/// two is the span id: `span_id` of the caller's `rpc.client`, `parent_span_id` of the `rpc.server`
/// that its handler runs in. Both are written as above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// A trace that begins here, with random ids, sampled.
    #[must_use]
    pub fn new_root() -> TraceContext {
        TraceContext {
            trace_id: fastrand::u128(1..),
            span_id: fastrand::u64(1..),
            flags: 1,
        }
    }

    /// Another span of the same trace, with a random id: what a nested call carries.
    #[must_use]
    pub fn child(&self) -> TraceContext {
        TraceContext {
            span_id: fastrand::u64(1..),
            ..*self
        }
    }

    /// Reads a `traceparent`; `None` if it is none. Of versions to come it reads what they share
    /// with version 0, as the standard asks.
    #[must_use]
    pub fn parse(text: &str) -> Option<TraceContext> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
        let more = parts.next().is_some();
        let valid = version != 0xff && !(version == 0 && more) && trace_id != 0 && span_id != 0;
        valid.then_some(TraceContext {
            trace_id,
            span_id,
            flags,
        })
    }

    /// The trace's id; 32 hexadecimal digits when it is printed with `{:032x}`.
    #[must_use]
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of the span that the call was made from.
    #[must_use]
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether whoever began the trace records it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// Whether anybody may listen to the spans of calls, which are of level DEBUG. Where nobody does, a
/// call does not begin to make one: if any dependency of a program has turned on the `log` feature
/// of `tracing`, even a span that is disabled is put together, field by field, for the `log` crate.
pub(crate) fn are_spans_wanted() -> bool {
    LevelFilter::current() >= Level::DEBUG
}

/// The value of exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(lower) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceContext {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard's own example.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_read_is_written_again() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert_eq!(context.to_string(), EXAMPLE);
        assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        let root = TraceContext::new_root();
        assert_eq!(TraceContext::parse(&root.to_string()), Some(root));
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let parent = TraceContext::parse(EXAMPLE).unwrap();
        let child = parent.child();
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_ne!(child.span_id(), parent.span_id());
    }

    #[test]
    fn broken_and_forbidden_values_are_refused() {
        let long = format!("{EXAMPLE}-more");
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            long.as_str(),
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
        let later = format!("01{}-more", &EXAMPLE[2..]);
        assert!(TraceContext::parse(&later).is_some(), "{later}");
    }
}
