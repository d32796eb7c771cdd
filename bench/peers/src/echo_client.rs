//! What a load asks of a peer's client.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;

/// A client on one connection. A clone is another handle on the same connection.
pub(crate) trait EchoClient: Clone + Send + 'static {
    /// Connects; the error is for a human.
    fn connect(addr: SocketAddr) -> impl Future<Output = Result<Self, String>> + Send;

    /// Calls once and tells how many bytes came back.
    fn echo(&mut self, payload: Bytes) -> impl Future<Output = Result<usize, String>> + Send;
}
