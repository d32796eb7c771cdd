//! The services of `docs/tutorial.md`, as generated from `proto/`, and what the second one does.

mod board;
mod watchers;

pub use board::{Board, OnlyOpsSet};

/// The messages, trait, adapter and stub of `hello.proto`.
#[allow(missing_docs, clippy::pedantic, reason = "generated")]
pub mod hello {
    rpc::include_proto!("hello");
}

/// The messages, trait, adapter and stub of `quotes.proto`.
#[allow(missing_docs, clippy::pedantic, reason = "generated")]
pub mod quotes {
    rpc::include_proto!("quotes");
}
