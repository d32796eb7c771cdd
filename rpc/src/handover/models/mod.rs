//! The code in [`handover`](super), compiled for loom and run in every order of its threads' steps.
//!
//! Every order with up to [`PREEMPTIONS_MAX`] preemptions, that is: switches away from a thread
//! that could have gone on (others are free). A model in which all threads wait is a failure of its
//! own: that is how a lost wake shows.

mod answering;
mod borrowing;
mod handing;
mod poll;
mod streaming;
mod sync;
mod waking;

#[path = "../../server/book.rs"]
#[allow(dead_code, unused_imports, reason = "the models need less of it")]
mod book;
#[path = "../../server/call_state.rs"]
#[allow(dead_code, reason = "the models need less of it")]
mod call_state;
#[path = "../../server/flow.rs"]
#[allow(dead_code, reason = "the models need less of it")]
mod flow;
#[path = "../lending.rs"]
mod lending;
#[path = "../posts.rs"]
#[allow(dead_code, reason = "the models need less of it")]
mod posts;
#[path = "../../server/room.rs"]
mod room;
#[path = "../tray.rs"]
#[allow(dead_code, reason = "the models need less of it")]
mod tray;
#[path = "../waiter.rs"]
#[allow(dead_code, reason = "the models need less of it")]
mod waiter;

/// What the book sees of a call.
mod call {
    use std::time::Instant;

    use super::call_state::{CallState, Entering};

    pub(super) struct Call {
        pub(super) request_id: u64,
        pub(super) deadline: Option<Instant>,
        pub(super) state: CallState,
    }

    impl Call {
        pub(super) fn enter_book(&self, next_entry: u64) -> Entering {
            self.state.enter_book(next_entry)
        }
    }
}

/// Enough for every known kind of race between two or three threads; more take minutes.
const PREEMPTIONS_MAX: usize = 3;

/// Runs `model` in every order.
fn in_every_order(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}
