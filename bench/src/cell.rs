//! What `bench_rpc` asks for: one line of its table is one cell.

use serde::Serialize;

/// What is asked for, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// `PAYLOAD/SHAPE`.
    pub name: String,
    /// The size of a request's payload, and of its reply's.
    pub payload_bytes: usize,
    /// Connections of the client, all to one server.
    pub connections: usize,
    /// Calls under way on each connection.
    pub in_flight: usize,
    /// How the framework is called.
    pub caller: Caller,
}

/// How the framework is called. The others have one form: a loop for the bare echo, tasks for
/// tonic and tarpc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// Each reply starts the next call.
    Callback,
    /// As many threads as calls in flight, each waiting for its own.
    Blocking,
}

/// Every cell, in the order of the table.
#[must_use]
pub fn all_cells() -> Vec<Cell> {
    let payloads = [(16, "16B"), (1024, "1KiB"), (64 << 10, "64KiB")];
    let shapes = [
        ("callback/1", 1, 1, Caller::Callback),
        ("callback/64", 1, 64, Caller::Callback),
        ("callback/1024", 1, 1024, Caller::Callback),
        ("blocking/1", 1, 1, Caller::Blocking),
        ("threads/64", 1, 64, Caller::Blocking),
        ("connections/64", 64, 1, Caller::Callback),
    ];
    let of_payload = |(payload_bytes, size)| {
        shapes.map(|(shape, connections, in_flight, caller)| Cell {
            name: format!("{size}/{shape}"),
            payload_bytes,
            connections,
            in_flight,
            caller,
        })
    };
    payloads.into_iter().flat_map(of_payload).collect()
}
