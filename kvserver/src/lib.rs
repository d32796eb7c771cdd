//! The replicated key-value store: what each node does with the log, and how it is asked to.
//!
//! Its centre is a function of the log ([`StateMachine`]), which knows no thread, socket, file or clock:
//!
//! ```text
//! Command ── codec::encode ──> log entry ──> StateMachine::apply ──> Outcome ──> the caller
//!    ▲                                          │    │
//!    │ log_time                        sessions ┘    └ Engine ── EngineView ──┐
//! LogClock                                 └────────────────── Snapshot ──────┴──> bytes
//! ```
//!
//! ```
//! use bytes::Bytes;
//! use kvserver::codec;
//! use kvserver::{Command, LogTime, MemoryEngine, Op, Outcome, Reply, RequestId, StateMachine, Writer};
//!
//! let mut store = StateMachine::new(MemoryEngine::new(), Default::default())?;
//!
//! let open = codec::encode(&Command::open_session(LogTime::ZERO))?;
//! let Outcome::SessionOpened(id) = store.apply(1, 1, &open)? else { panic!() };
//!
//! let append = codec::encode(&Command {
//!     log_time: LogTime::from_millis(5),
//!     writer: Writer::Session { id, request: RequestId::FIRST, replies_seen_upto: RequestId::ZERO },
//!     op: Op::Append { key: Bytes::from("fruit"), value: Bytes::from("fig ") },
//! })?;
//! assert_eq!(store.apply(2, 1, &append)?, Outcome::Applied(Reply::Done));
//! assert_eq!(store.apply(3, 1, &append)?, Outcome::Repeated(Reply::Done)); // asked again: not run again
//! assert_eq!(store.get(b"fruit")?.as_deref(), Some(&b"fig "[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`KvServer`] puts it on a Raft node and serves it: the service hands a request to the node, the applier
//! (the thread that owns the state machine) gets it back once it is committed, or safe to read, and answers.
//!
//! Read next: [`StateMachine`], then [`Writer`], and [`MemoryView`] for how a snapshot is taken without
//! stopping the writes. Every byte of an entry and a snapshot: `docs/store.md`. Comments that say *failure
//! N*, or *the original's defect N*, mean the lists in `docs/failures.md`.

pub mod answer;
mod applier;
pub mod codec;
mod command;
mod engine;
mod log_clock;
mod outcome;
mod request;
mod server;
mod service;
mod session;
mod snapshot;
#[cfg(test)]
mod snapshot_test;
mod state_machine;
#[cfg(test)]
mod state_machine_test;
#[cfg(test)]
mod test_kit;

pub use self::applier::ApplierError;
pub use self::command::{Command, LogTime, Op, RequestId, SessionId, Writer};
pub use self::engine::{Engine, EngineError, EngineView, MemoryEngine, MemoryView, Pair};
pub use self::log_clock::LogClock;
pub use self::outcome::{Outcome, Refusal, Reply};
pub use self::server::{Handover, KvServer, KvServerOptions, ServerError, StartError};
pub use self::session::{MAX_CLIENT_ID_BYTES, MAX_REPLIES_PER_SESSION};
pub use self::snapshot::{RestoreError, Snapshot, SnapshotError};
pub use self::state_machine::{Applied, ApplyError, Digest, StateMachine, StateMachineOptions};
