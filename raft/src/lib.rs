//! Raft: a pure core, a write-ahead log, and the node that drives them.

pub mod core;
