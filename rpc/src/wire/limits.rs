//! The bounds that hold for whatever a peer sends.

/// Most entries of metadata in one header, either way. An entry of two bytes on the wire takes
/// about sixty here, for as long as its call runs, so the bound on the header's bytes is not
/// enough.
pub(crate) const METADATA_ENTRIES_MAX: usize = 128;

/// What one peer may make us hold. All of it is checked before memory is reserved, and memory then
/// grows with the bytes that arrive. A channel heeds the first two; how much it sends is in
/// [`ChannelOptions`](crate::ChannelOptions).
///
/// The memory that connections can pin is at most `max_connections` times (`max_header_bytes` +
/// `max_body_bytes` + `max_unsent_bytes`), and what calls under way hold: each its arguments and
/// metadata, as large as its caller has sent them (up to the first two), and its reply. Of those
/// calls there are at most `max_in_flight` a connection, and `max_calls` in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest header of a request or reply, in bytes. Beyond it the connection is closed; so it is
    /// by a header with more than 128 entries of metadata. By default 64 KiB.
    pub max_header_bytes: u32,
    /// Largest body (arguments or reply message), in bytes. A request beyond it closes its
    /// connection; our own side refuses to send one. By default 64 MiB.
    pub max_body_bytes: u32,
    /// Calls of one connection that a server has begun and not answered. Further ones are refused
    /// with `RESOURCE_EXHAUSTED`; the requests of a legacy caller are begun one after the other. By
    /// default 1024.
    pub max_in_flight: usize,
    /// Calls that all connections of one provider have under way. Further ones are refused with
    /// `RESOURCE_EXHAUSTED`. Each event loop counts what others begin only once a turn, so for a
    /// moment there can be a few more. By default 65,536.
    pub max_calls: usize,
    /// Connections of one provider. Further ones are told so, if they speak in frames, and closed.
    /// By default 10,000.
    pub max_connections: usize,
    /// Reply bytes that one connection's peer has not taken yet. Above it the server stops reading
    /// from that connection, and its streams send nothing, until half of it is sent. By default
    /// 8 MiB.
    pub max_unsent_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_header_bytes: 64 << 10,
            max_body_bytes: 64 << 20,
            max_in_flight: 1024,
            max_calls: 64 << 10,
            max_connections: 10_000,
            max_unsent_bytes: 8 << 20,
        }
    }
}
