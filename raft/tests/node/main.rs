//! Nodes with threads, disks and sockets, and a state machine that only counts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod deposed;
mod full_follower;
mod harness;
mod lines;
mod stray_calls;
