//! The clerk without I/O, clock or threads: whom to ask, under which name, and what an answer means.
//!
//! A function of what it is told and when, as `raft::core` is: [`Logic`] takes inputs and returns
//! [`Action`]s. The same inputs and the same seed yield the same actions, so the simulator of whole
//! clusters runs this very code. A [`Clerk`](crate::Clerk) adds a lock, connections and a timer.
//!
//! ```text
//!  begin ------.                                  .--> Ask       then answered()
//!  answered ---+-->  Logic  --- in this order --->+--> Pause     then resume()
//!  resume -----+     |- pursuit   whom, how long  +--> Watch     then end_overdue()
//!  end_overdue-+     |- session   under which     +--> Describe  then described()
//!  described --'     |            name            '--> End       the caller has its result
//!                    |- nodes     who leads
//!                    |- members   who takes part
//!                    '- reply     what it means
//! ```
//!
//! Its promise about a write that ends without a reply: where
//! [`may_have_taken_effect`](crate::ClerkError::may_have_taken_effect) is false, no attempt has reached
//! a log, and none will.

mod backoff;
mod calls;
mod members;
mod nodes;
mod pursuit;
mod reply;
mod session;

pub use backoff::Backoff;
pub use calls::{Action, Call, Logic, Request, Success, Want};
pub use reply::Reply;
