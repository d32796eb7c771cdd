//! What a driver decides besides carrying out effects, as functions of time and of the core's state.
//!
//! The node's driver asks these rules, and so does the simulator: what it tries is what a node does.

mod disk_watch;
mod own_snapshot;

pub use self::disk_watch::{CommitWatch, DiskWatch, why_no_writes};
pub use self::own_snapshot::OwnSnapshot;
