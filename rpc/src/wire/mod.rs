//! The bytes on the wire, without a socket in sight.
mod limits;
pub use limits::Limits;
