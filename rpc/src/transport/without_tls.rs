//! What stands for TLS when the cargo feature `tls` is off.

/// TLS for a provider. Without the cargo feature `tls` there is no value of this type.
#[derive(Clone, Debug)]
pub enum TlsServer {}

/// TLS for a channel. Without the cargo feature `tls` there is no value of this type.
#[derive(Clone, Debug)]
pub enum TlsClient {}
