//! Where threads meet: the few places in which one thread leaves something that another must find.
//!
//! ```text
//!  many threads ──► Posts  ──► a loop, which may be asleep      (reactor: its mailbox)
//!  many threads ──► Tray   ──► a source of a loop, by a notice  (client: calls; server: replies)
//!  a loop       ──► Waiter ──► one thread that waits            (client: a blocking call)
//!  a loop      ◄──► Lending ◄─► whoever comes first             (client: a lone caller's connection)
//! ```
//!
//! What can go wrong here goes wrong once in a million runs: a wake that is lost, something left
//! behind by one who was too late. So these files name their locks and threads by `super::sync` and
//! are compiled a second time for the tests, in `models`, where loom runs them in every order that
//! threads can take. So are `book`, `flow` and `room` of the server, where a call's handlers and its
//! stream's senders meet the connection.

mod lending;
#[cfg(test)]
#[allow(clippy::duplicate_mod, reason = "compiled a second time on purpose")]
mod models;
mod posts;
pub(crate) mod sync;
mod tray;
mod waiter;

pub(crate) use lending::Lending;
pub(crate) use posts::Posts;
pub(crate) use tray::{Tray, TrayGuard};
pub(crate) use waiter::Waiter;
