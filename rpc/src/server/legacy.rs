//! The order of replies to a legacy caller.
//!
//! Such a caller has nothing but the order of its requests to tell replies apart, and takes what
//! one read brings for one reply. So replies wait for those before them, and each leaves in a
//! write of its own.

use std::collections::VecDeque;

use super::outbox::LegacyReply;
use crate::error::RpcError;
use crate::wire::OutputQueue;

/// The unanswered requests of a legacy connection. Its `max_in_flight` bounds their number, and
/// its `max_unsent_bytes` the replies that wait for others.
#[derive(Debug, Default)]
pub(super) struct LegacyOrder {
    /// Replies from `first_turn` on; `None`: not given yet.
    waiting: VecDeque<Option<LegacyReply>>,
    first_turn: u64,
    /// Bytes of the replies in `waiting`.
    held_bytes: usize,
    failure: Option<RpcError>,
}

impl LegacyOrder {
    /// Gives a request its turn.
    pub(super) fn begin(&mut self) -> u64 {
        self.waiting.push_back(None);
        self.first_turn + self.waiting.len() as u64 - 1
    }

    /// Takes the reply for a turn.
    pub(super) fn finish(&mut self, turn: u64, reply: LegacyReply) {
        let index = usize::try_from(turn - self.first_turn).expect("a turn is answered once");
        self.held_bytes += body_bytes(&reply);
        self.waiting[index] = Some(reply);
    }

    /// Bytes of the replies that wait for those before them.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Moves the replies whose turn has come to `output`, up to the first failure, and tells how
    /// many calls that ends.
    pub(super) fn release(&mut self, output: &mut OutputQueue) -> u64 {
        let before = self.first_turn;
        while self.failure.is_none() {
            let Some(Some(reply)) = self.waiting.front() else {
                break;
            };
            self.held_bytes -= body_bytes(reply);
            self.first_turn += 1;
            match self
                .waiting
                .pop_front()
                .flatten()
                .expect("it was just seen")
            {
                Ok(body) => output.push_segment(body),
                Err(error) => self.failure = Some(error),
            }
        }
        self.first_turn - before
    }

    /// The failure whose turn has come. A bare reply cannot express it, so the connection ends.
    pub(super) fn failure(&self) -> Option<&RpcError> {
        self.failure.as_ref()
    }
}

fn body_bytes(reply: &LegacyReply) -> usize {
    reply.as_ref().map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// A socket that takes everything and notes what one write brought.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl std::io::Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The original takes what one read brings for one reply.
    #[test]
    fn each_reply_leaves_in_one_write_of_its_own() {
        let mut order = LegacyOrder::default();
        let mut output = OutputQueue::default();
        let bodies = [vec![1; 4], vec![2; 11], vec![3; 300_000], vec![4; 5]];
        let turns: Vec<u64> = bodies.iter().map(|_| order.begin()).collect();
        for (turn, body) in turns.into_iter().zip(&bodies).rev() {
            order.finish(turn, Ok(body.clone()));
        }
        order.release(&mut output);
        let mut socket = Writes::default();
        output.write_to(&mut socket).unwrap();
        assert_eq!(socket.0, bodies);
    }

    #[test]
    fn replies_leave_in_the_order_of_their_requests_up_to_a_failure() {
        let mut order = LegacyOrder::default();
        let mut output = OutputQueue::default();
        let turns: Vec<u64> = (0..4).map(|_| order.begin()).collect();
        order.finish(turns[1], Ok(b"b".to_vec()));
        order.release(&mut output);
        assert!(output.is_empty(), "the first one is missing");
        order.finish(turns[0], Ok(b"a".to_vec()));
        order.finish(turns[3], Ok(b"d".to_vec()));
        order.release(&mut output);
        order.finish(turns[2], Err(RpcError::new(Code::Internal, "broken")));
        order.release(&mut output);
        let mut sent = Vec::new();
        output.write_to(&mut sent).unwrap();
        assert_eq!(sent, b"ab", "nothing leaves after a failure");
        assert_eq!(order.failure().unwrap().text(), "broken");
    }
}
