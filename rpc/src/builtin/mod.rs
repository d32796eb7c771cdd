//! Services that every provider can offer: is it well ([`Health`](HEALTH)), and what does it serve
//! ([`Reflection`](REFLECTION)).
//!
//! A provider serves them after
//! [`notify_builtin_services`](crate::RpcProvider::notify_builtin_services), and says how it is
//! with a [`HealthHandle`]. Their messages and methods are public, so that a client needs no
//! generated code:
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

mod health;
mod messages;
mod reflection;

pub use health::HealthHandle;
pub(crate) use health::{HealthService, ServerHealth};
pub use messages::{
    DescribeReply, DescribeRequest, HealthReply, HealthRequest, ListServicesReply,
    ListServicesRequest, MethodInfo, ServiceInfo, ServingStatus,
};
pub(crate) use reflection::ReflectionService;

use bytes::Bytes;
use prost::Message;

use crate::error::{Code, RpcError};
use crate::reply::ReplySlot;
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

/// Follows how a service is: [`HealthRequest`] to a stream of [`HealthReply`], which ends when the
/// server drains. A slow caller is sent the latest status and not all in between.
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

/// The arguments of a call, or its refusal.
fn decoded<A: Message + Default>(args: Bytes, reply: ReplySlot) -> Option<(A, ReplySlot)> {
    match A::decode(args) {
        Ok(args) => Some((args, reply)),
        Err(error) => {
            let text = format!("malformed arguments: {error}");
            reply.refuse(RpcError::new(Code::InvalidArgument, text));
            None
        }
    }
}
