//! The Raft algorithm as a function: inputs go in, effects come out.

mod config;
mod effect;
mod message;
mod raft;
mod types;

pub use config::{Config, ConfigError};
pub use effect::{Committed, Effect, ProposeError, Role};
pub use message::{AppendOutcome, Message};
pub use raft::Raft;
pub use types::{
    CallId, Compaction, Entry, HardState, LogId, LogIndex, Millis, NodeId, Payload, ReadId,
    Restored, Term, WriteBatch, WriteId,
};
