//! [`Waiting`]: calls that were begun while there is no connection for them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::in_flight::InFlight;
use super::pending::Ended;
use super::raw::Raw;
use super::shared::{ChannelShared, Queued, timeout_ms};
use crate::error::RpcError;
use crate::reactor;
use crate::wire::{
    Limits, OutputQueue, Peeked, RequestHead, peek_request, put_request, request_len,
};

#[derive(Default)]
pub(super) struct Waiting {
    pub(super) output: OutputQueue,
    pub(super) in_flight: InFlight,
    /// The calls whose frames are in the output, in order, with the sizes of those.
    frames: Vec<(u64, usize)>,
}

impl Waiting {
    pub(super) fn add(&mut self, queued: Queued) {
        let Queued {
            id,
            frame_bytes,
            pending,
        } = queued;
        self.frames.push((id, frame_bytes));
        let deadline = pending.deadline();
        self.in_flight.insert(id, pending, deadline);
    }

    /// Gives up what was to be sent. Its calls have ended.
    pub(super) fn forget_bytes(&mut self, shared: &ChannelShared) {
        debug_assert!(self.in_flight.is_empty());
        let unsent = self.output.unsent_bytes();
        shared.unsent_bytes.fetch_sub(unsent, Ordering::Relaxed);
        self.output.clear();
        self.frames.clear();
    }

    /// Ends all calls. No server has seen them.
    pub(super) fn fail_all(&mut self, error: &RpcError, shared: &ChannelShared) {
        for pending in self.in_flight.take_all() {
            let error = error.clone().with_may_have_executed(false);
            shared.end(pending, Ended::from(error));
        }
        self.forget_bytes(shared);
    }

    /// The connection is there: leaves out the frames of calls that have ended, tells the others
    /// where in the connection's bytes they end, and how much of their time is left.
    pub(super) fn into_sendable(self, shared: &ChannelShared) -> (OutputQueue, InFlight) {
        let Waiting {
            mut output,
            mut in_flight,
            frames,
        } = self;
        let (now, limits) = (reactor::now(), &shared.options.limits);
        let before = output.unsent_bytes();
        let lens = frames.iter().map(|&(_, len)| len);
        let mut ids = frames.iter().map(|&(id, _)| id);
        output.rewrite_frames(lens, |frame, output| {
            let id = ids.next().expect("each frame has its id");
            if let Some(pending) = in_flight.get_mut(id) {
                put_with_time_left(frame, pending.deadline(), now, limits, output);
                pending.frame_end = output.unsent_bytes() as u64;
            }
        });
        let after = output.unsent_bytes();
        shared.unsent_bytes.fetch_add(after, Ordering::Relaxed);
        shared.unsent_bytes.fetch_sub(before, Ordering::Relaxed);
        (output, in_flight)
    }
}

/// Appends `frame`, whose timeout may have become shorter while it waited.
fn put_with_time_left(
    frame: &[u8],
    deadline: Option<Instant>,
    now: Instant,
    limits: &Limits,
    output: &mut OutputQueue,
) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
    let left_ms = timeout_ms(left);
    if let Ok(Peeked::Complete(peeked)) = peek_request(frame, limits)
        && peeked.head.timeout_ms > left_ms
        && left_ms > 0
    {
        let head = RequestHead {
            timeout_ms: left_ms,
            ..peeked.head
        };
        let args = Raw(&frame[peeked.body_start..]);
        output.push_frame(request_len(&head), |out| put_request(out, &head, &args));
    } else {
        output.push_frame(frame.len(), |out| out.extend_from_slice(frame));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::client::options::ChannelOptions;
    use crate::client::pending::{Completion, Pending};
    use crate::reactor::EventLoops;
    use crate::service::MethodDescriptor;

    static METHOD: MethodDescriptor = MethodDescriptor {
        service: "Echo",
        method: "Say",
    };

    /// Puts a call into `waiting` that was begun some time ago.
    fn add(waiting: &mut Waiting, id: u64, timeout: Option<Duration>, age: Duration, args: &[u8]) {
        let args_size = u32::try_from(args.len()).unwrap();
        let head = RequestHead::call(&METHOD, args_size, id, timeout_ms(timeout));
        let frame_bytes = request_len(&head);
        waiting.output.push_frame(frame_bytes, |out| {
            put_request(out, &head, &Raw(args));
        });
        let mut pending = Pending::new(Some(&METHOD), Completion::Callback(Box::new(|_| {})));
        pending.timeout = timeout;
        pending.begun = Instant::now().checked_sub(age).unwrap();
        waiting.add(Queued {
            id,
            frame_bytes,
            pending,
        });
    }

    #[test]
    fn a_frame_that_waited_says_what_is_left_of_its_time() {
        let loops = EventLoops::start(1, "test").unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let handle = Arc::clone(loops.pick());
        let shared = ChannelShared::new(addr, ChannelOptions::default(), handle, || {});
        let mut waiting = Waiting::default();
        let hour = Duration::from_hours(1);
        add(&mut waiting, 1, Some(hour), hour / 2, b"half");
        add(&mut waiting, 2, Some(hour), hour / 2, b"ended");
        add(&mut waiting, 3, None, hour, b"patient");
        add(&mut waiting, 4, Some(hour), Duration::ZERO, b"fresh");
        shared
            .unsent_bytes
            .fetch_add(waiting.output.unsent_bytes(), Ordering::Relaxed);
        drop(waiting.in_flight.remove(2));

        let (mut output, mut in_flight) = waiting.into_sendable(&shared);
        let mut sent = Vec::new();
        output.write_to(&mut sent).unwrap();
        assert_eq!(shared.unsent_bytes.load(Ordering::Relaxed), sent.len());
        let mut rest = &sent[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let Peeked::Complete(frame) = peek_request(rest, &Limits::default()).unwrap() else {
                panic!("a frame is cut off");
            };
            let end = frame.body_start + frame.body_size;
            let body = str::from_utf8(&rest[frame.body_start..end]).unwrap();
            let minutes = frame.head.timeout_ms.div_ceil(60_000);
            seen.push((frame.head.request_id, minutes, body));
            rest = &rest[end..];
            let pending = in_flight.get_mut(frame.head.request_id).unwrap();
            assert_eq!(pending.frame_end, (sent.len() - rest.len()) as u64);
        }
        assert_eq!(seen, [(1, 30, "half"), (3, 0, "patient"), (4, 60, "fresh")]);
        assert_eq!(in_flight.len(), 3);
    }
}
