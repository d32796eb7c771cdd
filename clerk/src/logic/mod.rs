//! What a clerk decides, as functions of what it hears and when.

pub(crate) mod backoff;
pub(crate) mod members;
pub(crate) mod nodes;
pub(crate) mod pursuit;
pub(crate) mod reply;
pub(crate) mod session;
