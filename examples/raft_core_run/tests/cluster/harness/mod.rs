//! What the tests are made of.
//!
//! ```text
//! Cluster ── Process        nodes to kill, pause, stop and bring back; Launcher: all by one command
//! Links, Network            what is between the nodes, and can be cut
//! Load ───── Journal        clients that write without pause, and what they were promised
//! Recorder ─ linearizable   who asked what when and got which answer, and whether that can be
//! Scene                     a cluster with all these clients
//! ```

pub(crate) mod caller;
pub(crate) mod cgroup;
pub(crate) mod cluster;
pub(crate) mod history;
pub(crate) mod launcher;
pub(crate) mod linearizable;
pub(crate) mod links;
pub(crate) mod load;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod proc;
pub(crate) mod process;
pub(crate) mod scene;
pub(crate) mod skip;
pub(crate) mod tool;
pub(crate) mod wait;
pub(crate) mod wal;
pub(crate) mod wire;

pub(crate) use cgroup::Cgroup;
pub(crate) use cluster::{Cluster, free_addresses};
pub(crate) use launcher::Launcher;
pub(crate) use load::Load;
pub(crate) use process::Process;
pub(crate) use scene::Scene;
pub(crate) use skip::not_tested;
pub(crate) use wait::{HANG_GUARD, eventually, seed};
