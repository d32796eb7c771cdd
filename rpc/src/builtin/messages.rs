//! The messages of `proto/builtin.proto`, by hand. Tags and types are those of the file.

use bytes::Bytes;
use prost::{Enumeration, Message};

/// Which service is asked about.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct HealthRequest {
    /// The simple name of a service; empty: the server as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct HealthReply {
    /// A [`ServingStatus`]; [`status()`](HealthReply::status) reads it as one.
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// Whether calls should be sent to a server or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// The server has no such service.
    Unknown = 0,
    /// Calls are welcome.
    Serving = 1,
    /// Calls had better go elsewhere.
    NotServing = 2,
}

impl ServingStatus {
    /// The name in the `.proto`: `SERVING`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ServingStatus::Unknown => "UNKNOWN",
            ServingStatus::Serving => "SERVING",
            ServingStatus::NotServing => "NOT_SERVING",
        }
    }
}

/// Asks for all services.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ListServicesRequest {}

/// All services.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ListServicesReply {
    /// In the order in which they were registered, the builtin ones last.
    #[prost(message, repeated, tag = "1")]
    pub services: Vec<ServiceInfo>,
}

/// One service.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ServiceInfo {
    /// The simple name, which calls travel under: `kvServerRpc`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The name with its package, as the descriptors know it.
    #[prost(string, tag = "2")]
    pub full_name: String,
    /// Its methods, in the order of the `.proto`.
    #[prost(message, repeated, tag = "3")]
    pub methods: Vec<MethodInfo>,
    /// Whether [`DESCRIBE`](super::DESCRIBE) has descriptors of it. A service written by hand may
    /// have none.
    #[prost(bool, tag = "4")]
    pub described: bool,
}

/// One method.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MethodInfo {
    /// The name as the `.proto` writes it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The reply is a stream of messages.
    #[prost(bool, tag = "2")]
    pub server_streaming: bool,
}

/// Asks for the descriptors of one service.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DescribeRequest {
    /// The simple name of a service, or its full name.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// The descriptors of one service.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DescribeReply {
    /// The name with its package: what to look up in the descriptors.
    #[prost(string, tag = "1")]
    pub full_name: String,
    /// An encoded `google.protobuf.FileDescriptorSet`: the file that defines the service and all
    /// files that it imports, imported files before those that import them.
    #[prost(bytes = "bytes", tag = "2")]
    pub file_descriptor_set: Bytes,
}
