//! The bounds that hold for whatever a peer sends.

/// What one peer may make us hold. All of it is checked before memory is reserved.
///
/// The memory that connections can pin is at most `max_connections` times (`max_header_bytes` +
/// `max_body_bytes` + `max_unsent_bytes` + the replies of `max_in_flight` handlers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest header of a request or reply, in bytes. Beyond it the connection is closed.
    pub max_header_bytes: u32,
    /// Largest body (arguments or reply message), in bytes. A request beyond it closes its
    /// connection; our own side refuses to send one.
    pub max_body_bytes: u32,
    /// Calls of one connection that a server has begun and not answered (for a legacy caller: whose
    /// turn to be answered has not come). At the limit the server stops reading from that
    /// connection, and TCP holds the caller back.
    pub max_in_flight: usize,
    /// Connections of one provider. Further ones are accepted and closed at once.
    pub max_connections: usize,
    /// Reply bytes that one connection's peer has not taken yet, those included that wait for a
    /// legacy caller's turn. Above it the server stops reading from that connection until half of
    /// it is sent.
    pub max_unsent_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_header_bytes: 64 << 10,
            max_body_bytes: 64 << 20,
            max_in_flight: 1024,
            max_connections: 10_000,
            max_unsent_bytes: 8 << 20,
        }
    }
}
