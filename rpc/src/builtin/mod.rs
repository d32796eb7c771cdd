//! Services that every provider can offer: is it well ([`Health`](HEALTH)), and what does it serve
//! ([`Reflection`](REFLECTION)).
//!
//! This version has their messages and methods, which are public, so that neither a client nor who
//! implements them needs generated code; a provider does not serve them by itself yet.
//!
//! ```no_run
//! use rpc::builtin::{LIST_SERVICES, ListServicesReply, ListServicesRequest};
//! use rpc::{RpcChannel, RpcController};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = RpcChannel::new("127.0.0.1:9000".parse()?);
//! let request = ListServicesRequest {};
//! let reply: ListServicesReply =
//!     channel.call(&LIST_SERVICES, &mut RpcController::new(), &request)?;
//! for service in reply.services {
//!     println!("{}", service.full_name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The same as text: [`PROTO`]. Written by hand rather than generated, because the generator's
//! crate comes after this one; a test holds the two together.

mod messages;

pub use messages::{
    DescribeReply, DescribeRequest, HealthReply, HealthRequest, ListServicesReply,
    ListServicesRequest, MethodInfo, ServiceInfo, ServingStatus,
};

use crate::service::MethodDescriptor;

/// The name of the health service on the wire.
pub const HEALTH: &str = "Health";

/// The name of the reflection service on the wire.
pub const REFLECTION: &str = "Reflection";

/// The `.proto` file of both services.
pub const PROTO: &str = include_str!("../../proto/builtin.proto");

/// [`PROTO`] compiled: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("../../proto/builtin.binpb");

/// Asks how a service is: [`HealthRequest`] to [`HealthReply`].
pub static HEALTH_CHECK: MethodDescriptor = MethodDescriptor {
    service: HEALTH,
    method: "Check",
};

/// Follows how a service is: [`HealthRequest`] to a stream of [`HealthReply`].
pub static HEALTH_WATCH: MethodDescriptor = MethodDescriptor {
    service: HEALTH,
    method: "Watch",
};

/// Asks what a server offers: [`ListServicesRequest`] to [`ListServicesReply`].
pub static LIST_SERVICES: MethodDescriptor = MethodDescriptor {
    service: REFLECTION,
    method: "ListServices",
};

/// Asks for the descriptors of one service: [`DescribeRequest`] to [`DescribeReply`].
///
/// Fails with `NOT_FOUND` when there is no such service, or none of its descriptors.
pub static DESCRIBE: MethodDescriptor = MethodDescriptor {
    service: REFLECTION,
    method: "Describe",
};
