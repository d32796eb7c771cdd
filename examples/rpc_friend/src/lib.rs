//! `FiendServiceRpc`, as generated from `proto/friend.proto`: what provider and consumer share.

#![allow(
    missing_docs,
    clippy::pedantic,
    reason = "generated; the messages are described in friend.proto"
)]

rpc::include_proto!("fixbug");
