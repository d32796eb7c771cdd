//! What a server says of itself: its Reflection service.

use bytes::Bytes;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};
use rpc::builtin::{
    DESCRIBE, DescribeReply, DescribeRequest, LIST_SERVICES, ListServicesReply,
    ListServicesRequest, REFLECTION, ServiceInfo,
};
use rpc::{Code, RpcError};

use crate::args::MethodName;
use crate::failure::Failure;
use crate::json;
use crate::server::Server;

/// All services, in the server's order.
pub(crate) fn list(server: &Server) -> Result<Vec<ServiceInfo>, Failure> {
    let reply: Result<ListServicesReply, _> = server.channel.call(
        &LIST_SERVICES,
        &mut server.controller(),
        &ListServicesRequest {},
    );
    let reply = reply.map_err(|error| failure(server, &error))?;
    Ok(reply.services)
}

/// The descriptors of a service, by its simple or full name. `None`: there is no such service, or
/// the server has no descriptors of it.
pub(crate) fn service(server: &Server, name: &str) -> Result<Option<ServiceDescriptor>, Failure> {
    let request = DescribeRequest {
        service: name.to_owned(),
    };
    let reply: Result<DescribeReply, _> =
        (server.channel).call(&DESCRIBE, &mut server.controller(), &request);
    let reply = match reply {
        Err(error) if error.code() == Code::NotFound => return Ok(None),
        reply => reply.map_err(|error| failure(server, &error))?,
    };
    let broken = |why: String| {
        let addr = &server.addr;
        Failure::Failed(format!("the descriptors of {name} at {addr}: {why}"))
    };
    let pool = DescriptorPool::decode(reply.file_descriptor_set)
        .map_err(|error| broken(error.to_string()))?;
    match pool.get_service_by_name(&reply.full_name) {
        Some(service) => Ok(Some(service)),
        None => Err(broken(format!("{} is not in them", reply.full_name))),
    }
}

/// A method that can be called.
pub(crate) struct Method {
    descriptor: MethodDescriptor,
    /// What a channel wants to know of it.
    pub(crate) call: &'static rpc::MethodDescriptor,
}

impl Method {
    /// Asks the server for the method's descriptor.
    pub(crate) fn find(server: &Server, name: &MethodName) -> Result<Method, Failure> {
        let service =
            service(server, &name.service)?.ok_or_else(|| no_service(server, &name.service))?;
        let descriptor = method_of(&service, &name.method)?;
        // One for each run of the program, and for as long as that.
        let call = Box::leak(Box::new(rpc::MethodDescriptor {
            service: String::leak(service.name().to_owned()),
            method: String::leak(name.method.clone()),
        }));
        Ok(Method { descriptor, call })
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.descriptor.is_server_streaming()
    }

    /// The arguments that `json` stands for, encoded.
    pub(crate) fn encode_args(&self, json: &str) -> Result<Bytes, Failure> {
        let args = json::encode(&self.descriptor.input(), json);
        args.map_err(|why| Failure::Usage(format!("the arguments of {}: {why}", self.name())))
    }

    /// A reply, or an item of one, as JSON in one line.
    pub(crate) fn decode_reply(&self, reply: Bytes, defaults: bool) -> Result<String, Failure> {
        let json = json::decode(&self.descriptor.output(), reply, defaults);
        json.map_err(|why| Failure::Failed(format!("the reply of {}: {why}", self.name())))
    }

    /// `SERVICE.METHOD`, as in calls.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.call.service, self.call.method)
    }
}

/// The method of that name.
pub(crate) fn method_of(
    service: &ServiceDescriptor,
    name: &str,
) -> Result<MethodDescriptor, Failure> {
    let method = service.methods().find(|method| method.name() == name);
    method.ok_or_else(|| {
        let names: Vec<_> = service.methods().map(|it| it.name().to_owned()).collect();
        let (service, names) = (service.full_name(), names.join(", "));
        Failure::Failed(format!("{service} has no method {name}; it has {names}"))
    })
}

pub(crate) fn no_service(server: &Server, name: &str) -> Failure {
    let addr = &server.addr;
    Failure::Failed(format!(
        "{addr} has no service {name}, or no descriptors of it (`kvctl rpc list {addr}` tells)"
    ))
}

fn failure(server: &Server, error: &RpcError) -> Failure {
    let addr = &server.addr;
    if error.code() == Code::Unimplemented {
        return Failure::Failed(format!(
            "{addr} does not say what it serves: its provider has to offer the builtin services"
        ));
    }
    Failure::of_call(format_args!("{REFLECTION} at {addr}"), error)
}
