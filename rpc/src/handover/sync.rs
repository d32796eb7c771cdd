//! What the code in [`handover`](super) is built on; the models have another one.

pub(crate) use std::sync::atomic;
pub(crate) use std::thread;

pub(crate) use parking_lot::{Mutex, MutexGuard};
