//! What a user of `raft::storage` sees: through crashes, damage, full disks and restarts.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that fails says why, and may fail by a panic; its numbers are small"
)]

mod corruption;
mod crash;
mod directory;
mod faulty;
mod full_disk;
mod inspect;
mod model;
mod no_space;
mod real_disk;
mod script;
mod segments;
mod snapshots;
