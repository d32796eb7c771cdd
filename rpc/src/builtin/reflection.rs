//! What a server offers, for tools that have no `.proto` files of it.

use bytes::Bytes;

use super::messages::{
    DescribeReply, DescribeRequest, ListServicesReply, ListServicesRequest, MethodInfo, ServiceInfo,
};
use super::{DESCRIBE, FILE_DESCRIPTOR_SET, LIST_SERVICES, REFLECTION, decoded};
use crate::error::{Code, RpcError};
use crate::reply::{Done, ReplySlot};
use crate::service::{RpcContext, Service};

/// What is known of one service.
struct Described {
    info: ServiceInfo,
    file_descriptor_set: &'static [u8],
}

/// Answers calls of `Reflection`.
pub(crate) struct ReflectionService {
    services: Vec<Described>,
}

impl ReflectionService {
    /// Tells of `services`, and of itself.
    pub(crate) fn new<'a>(services: impl Iterator<Item = &'a dyn Service>) -> ReflectionService {
        let mut reflection = ReflectionService {
            services: services.map(Described::of).collect(),
        };
        let myself = Described::of(&reflection);
        reflection.services.push(myself);
        reflection
    }

    fn list(&self) -> ListServicesReply {
        let infos = self.services.iter().map(|service| service.info.clone());
        ListServicesReply {
            services: infos.collect(),
        }
    }

    fn describe(&self, name: &str) -> Result<DescribeReply, RpcError> {
        let mut services = self.services.iter();
        let found =
            services.find(|service| service.info.name == name || service.info.full_name == name);
        let no = |text: String| RpcError::new(Code::NotFound, text);
        match found {
            None => Err(no(format!("no service {name:?}"))),
            Some(service) if !service.info.described => {
                Err(no(format!("service {name:?} has no descriptors")))
            }
            Some(service) => Ok(DescribeReply {
                full_name: service.info.full_name.clone(),
                file_descriptor_set: Bytes::from_static(service.file_descriptor_set),
            }),
        }
    }
}

impl Described {
    fn of(service: &dyn Service) -> Described {
        let method = |(index, &name): (usize, &&str)| MethodInfo {
            name: name.to_owned(),
            server_streaming: service.is_streaming(index),
        };
        let file_descriptor_set = service.file_descriptor_set();
        Described {
            info: ServiceInfo {
                name: service.name().to_owned(),
                full_name: service.full_name().to_owned(),
                methods: service.methods().iter().enumerate().map(method).collect(),
                described: !file_descriptor_set.is_empty(),
            },
            file_descriptor_set,
        }
    }
}

impl Service for ReflectionService {
    fn name(&self) -> &'static str {
        REFLECTION
    }

    fn methods(&self) -> &'static [&'static str] {
        const METHODS: [&str; 2] = [LIST_SERVICES.method, DESCRIBE.method];
        &METHODS
    }

    fn file_descriptor_set(&self) -> &'static [u8] {
        FILE_DESCRIPTOR_SET
    }

    fn full_name(&self) -> &'static str {
        "rpc.builtin.Reflection"
    }

    fn call(&self, method: usize, _context: RpcContext, args: Bytes, reply: ReplySlot) {
        if self.methods()[method] == LIST_SERVICES.method {
            if let Some((ListServicesRequest {}, reply)) = decoded(args, reply) {
                Done::new(reply).run(self.list());
            }
        } else if let Some((DescribeRequest { service }, reply)) = decoded(args, reply) {
            match self.describe(&service) {
                Ok(description) => Done::new(reply).run(description),
                Err(error) => reply.refuse(error),
            }
        }
    }
}
