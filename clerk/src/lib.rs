//! The client of the replicated key-value store.
//!
//! A [`Clerk`] finds the leader, follows it when it changes, and repeats what got lost under one
//! deadline. A write keeps its name (session and number) however often it is repeated, so it takes
//! effect once.
//!
//! ```text
//!  threads --- Clerk (clerk.rs) ---> logic ---- actions ---> call.rs ---> RpcChannel --- nodes
//!                                      ^                     |   '-----> timer (pauses)
//!     whom to ask, how long,           '--- replies, time ---'
//!     who leads and takes part,
//!     under which name a write is known
//! ```
//!
//! ```no_run
//! use clerk::Clerk;
//!
//! let clerk = Clerk::open("bin/test.conf")?;
//! clerk.put("x", "1")?;
//! clerk.append("x", "2")?;
//! assert_eq!(clerk.get("x")?.as_deref(), Some(&b"12"[..]));
//!
//! match clerk.put("x", "3") {
//!     Ok(()) => println!("done, and it stays done"),
//!     Err(error) if error.may_have_taken_effect() => println!("unknown: {error}"),
//!     Err(error) => println!("certainly not done: {error}"),
//! }
//!
//! clerk.put_async("y", "4", |result| println!("{result:?}")); // runs on the event loop
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Read next: [`ClerkError`], the three outcomes of a write; [`ClerkOptions`], every bound; [`logic`],
//! all that is decided, as a function of inputs and time. Comments that say *failure N*, or *the
//! original's defect N*, mean the lists in `docs/failures.md`.

mod call;
mod clerk;
mod error;
mod one_shot;
mod options;
mod permits;
mod shared;
mod stubs;
mod timer;

pub mod logic;

pub use clerk::{Clerk, ClerkStats};
pub use error::{ClerkError, LastFailure, NodeName, OpenError};
pub use logic::Backoff;
pub use options::{ClerkOptions, ReadFrom};
