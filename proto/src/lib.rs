//! What the nodes of a cluster and their clients agree on: messages, stubs, and the cluster file.
//!
//! [`kv`] is the store's service, [`raft`] what nodes say to each other, [`membership`] what operators
//! ask of them, [`cluster`] the file that tells all where the nodes are. The messages are in `proto/*.proto`.

#![expect(
    clippy::doc_markdown,
    clippy::must_use_candidate,
    clippy::derive_partial_eq_without_eq,
    reason = "generated code"
)]

pub mod cluster;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing {
    //! What the target in `fuzz/` calls, see `docs/fuzzing.md`.
    pub use crate::cluster::fuzzing::cluster_file;
}

/// `kvServerRpc`: what clients ask of the store.
#[allow(missing_docs, reason = "generated; the comments are in kv.proto")]
pub mod kv {
    include!(concat!(env!("OUT_DIR"), "/kv.rs"));
}

/// `raftRpc`: Figures 2 and 13 of the paper, between nodes.
#[allow(missing_docs, reason = "generated; the comments are in raft.proto")]
pub mod raft {
    include!(concat!(env!("OUT_DIR"), "/raft.rs"));
}

/// `clusterRpc`: how a cluster stands, its members and its leader, for operators.
#[allow(
    missing_docs,
    reason = "generated; the comments are in membership.proto"
)]
pub mod membership {
    include!(concat!(env!("OUT_DIR"), "/membership.rs"));
}
