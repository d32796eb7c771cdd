//! The floor under any RPC: an echo of frames on one mio loop, with nothing else to do.
//!
//! ```text
//! u32 size (little endian) | u64 id | payload (size - 8 bytes)
//! ```
//!
//! Written as well as the framework that is held against it: whatever a read yields is answered in
//! one write, buffers are reused, sockets are drained with as few calls as will do.

mod client;
mod connection;
mod server;

pub use client::Client;
pub use server::serve;
