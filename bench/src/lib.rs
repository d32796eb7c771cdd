//! What the programs share. The first two measure side by side, in the same run on the same machine:
//!
//! | program | measures | beside |
//! |---|---|---|
//! | `bench_rpc` | calls through a generated stub | a bare mio echo of frames ([`bare`]), tonic and tarpc (`bench_peers`) |
//! | `bench_store` | puts and gets through a clerk | one record appended and synced ([`disk`]) |
//! | `bench_failover` | how long no write is acknowledged when the leader is killed or stopped, and in a rolling restart | |
//! | `bench_soak` | memory, descriptors and CPU time of nodes over hours | themselves at the beginning |
//! | `bench_connections` | memory of a server with idle connections, and how it refuses one too many ([`idle`]) | the same server without them |
//!
//! ```text
//!   load (rpc_load, bare::client, store_load) ──► Recorder ──► Latency ──► table, JSON
//!     │ drives                                    latency.rs     over a span (span.rs), a round
//!     ▼
//!   server in a process of its own (child.rs) ──► usage.rs: CPU time by thread, wake-ups, writes
//! ```
//!
//! Figures are medians of several rounds, taken in turns (A B A B ...), so that what drifts on the
//! machine drifts under both. How to run and read them: `docs/benchmarks.md`.

pub mod bare;
pub mod cell;
pub mod certificate;
pub mod child;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod echo;
pub mod idle;
pub mod latency;
pub mod machine;
pub mod neighbour;
pub mod required;
pub mod round;
pub mod rpc_load;
pub mod side;
pub mod span;
pub mod store_load;
pub mod table;
pub mod usage;
