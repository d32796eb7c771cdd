//! The core as a cluster would see it: scenario scripts to read beside the paper, and random runs.
//!
//! Several cores share a simulated network and have a simulated disk each ([`cluster`]); nothing
//! here knows the core's inside. After every step the cluster is held against the paper's five
//! promises (Fig. 3, [`safety`]).

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that fails says why, and may fail by a panic"
)]

mod cluster;
mod disk;
mod failures;
mod random;
mod safety;
mod scripts;
