//! Who has asked what already: the memory that makes a repeated write take effect once.
//!
//! Two kinds of writer are remembered. A [`SessionTable`] keeps, for each session, the replies that its
//! client may ask for again (thesis §6.3). A [`LegacyTable`] keeps the last request of each caller of the
//! C++ original. Both are part of the replicated state: every node keeps, trims, expires and evicts them
//! at the same log entry, and a snapshot carries them (failures 82, 123).
//!
//! Both stand on a [`Recency`] table, which knows who was used least recently.

mod client;
#[cfg(test)]
mod client_test;
mod legacy;
#[cfg(test)]
mod legacy_test;
mod recency;
mod window;

pub use self::legacy::MAX_CLIENT_ID_BYTES;
pub use self::window::MAX_REPLIES_PER_SESSION;

pub(crate) use self::client::SessionTable;
pub(crate) use self::legacy::{LegacyClient, LegacyTable, LegacyVerdict, LegacyWrite};
pub(crate) use self::recency::{Limits, Moment, Recency};
pub(crate) use self::window::{ReplyWindow, Verdict};
