//! Whole clusters in one thread, from a seed.
//!
//! The core of `raft`, its storage, the state machine with its sessions, and all that a clerk decides
//! (`clerk::logic`) are the real ones, byte for byte. Network, disks, clocks and processes are simulated,
//! under one seeded generator and virtual time; so a seed is a run, and the same seed is the same run.
//!
//! ```text
//!   clients  ┌──────────── World: a heap of events, one generator ─────────────┐
//!   (Logic) ─┤ Network: delay, loss, repetition, cuts          Faults: a swarm │
//!            │ Node: disk, clock, and, while it runs, a Process:               │
//!            │       raft::core::Raft · Persister · StateMachine               │
//!            └──── every step is held against the Oracle and told to Coverage ─┘
//! ```
//!
//! Read next: [`World`] for how a run goes, `oracle` for what must hold,
//! `docs/simulation.md` for the faults, the situations and the figures.

mod applying;
mod client;
mod clock;
mod coverage;
mod delivery;
mod durable;
mod history;
mod network;
mod node;
mod options;
mod oracle;
mod process;
mod recovery;
mod serving;
mod shrink;
mod snapshots;
mod swarm;
mod world;
mod writing;

pub mod crash_points;
pub mod cuts;

pub use coverage::{Coverage, Situation};
pub use history::{
    Call, Effect, History, Violation as HistoryViolation, What, is_linearizable_by_search,
};
pub use options::{Faults, RunOptions};
pub use oracle::Violation;
pub use shrink::shrink;
pub use swarm::FAULTS;
pub use world::{Outcome, World, run_seed};
