//! The store as its users meet it: real processes, started, killed, paused, damaged and fed with
//! nonsense while clients write.
//!
//! Clusters run one at a time. Every test prints the seed of what it draws; `TEST_SEED=N` repeats it.
//! A test that the machine does not allow says `NOT TESTED` and passes; where `CLUSTER_TEST_NO_SKIPS`
//! names the kind of what is missing ([`harness::not_tested`]), it fails. Waits are for events; the one
//! minute in [`harness::HANG_GUARD`] only ends what hangs. *Failures*, and *the original's defects*, are
//! those of `docs/failures.md`, *faults* those of `docs/faults.md`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "all of this is a test"
)]

mod appends;
mod bad_input;
mod bounds;
mod clocks;
mod crash;
mod damage;
mod disk;
mod disk_faults;
mod disk_full;
mod disk_stuck;
mod harness;
mod launch;
mod leader_loss;
mod linearizability;
mod many_keys;
mod members;
mod partitions;
mod pauses;
mod poor_links;
mod power_cut;
mod rolling;
mod snapshots;
mod starved;
