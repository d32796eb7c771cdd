//! The builtin reflection service: what a server offers, told to a tool without `.proto` files.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

mod common;

use bytes::Bytes;
use common::*;
use prost::Message;
use protox::prost_reflect::DescriptorPool;
use rpc::builtin::{
    DESCRIBE, DescribeReply, DescribeRequest, FILE_DESCRIPTOR_SET, LIST_SERVICES,
    ListServicesReply, ListServicesRequest, REFLECTION,
};
use rpc::{
    Code, ProviderHandle, ProviderOptions, ReplySlot, RpcChannel, RpcContext, RpcController,
    RpcError, RpcProvider, Service,
};

/// A service that was generated from a file with a package.
struct Described;

impl Service for Described {
    fn name(&self) -> &'static str {
        "Described"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["Get", "Follow"]
    }

    fn is_streaming(&self, method: usize) -> bool {
        method == 1
    }

    fn file_descriptor_set(&self) -> &'static [u8] {
        b"descriptors"
    }

    fn full_name(&self) -> &'static str {
        "test.Described"
    }

    fn call(&self, _method: usize, _context: RpcContext, _args: Bytes, reply: ReplySlot) {
        reply.reply(&());
    }
}

fn serve_reflection() -> ProviderHandle {
    let (echo, _held, _gate) = echo();
    let mut provider = RpcProvider::new(ProviderOptions {
        threads: 1,
        ..ProviderOptions::default()
    });
    provider.notify_service(Described).unwrap();
    provider.notify_builtin_services().unwrap();
    // Also those are told of that come later.
    provider.notify_service(echo).unwrap();
    provider.start("127.0.0.1:0").unwrap()
}

fn describe(channel: &RpcChannel, service: &str) -> Result<DescribeReply, RpcError> {
    let request = DescribeRequest {
        service: service.to_owned(),
    };
    channel.call(&DESCRIBE, &mut RpcController::with_timeout(LONG), &request)
}

#[test]
fn all_services_are_listed_the_builtin_ones_included() {
    let handle = serve_reflection();
    let channel = channel_to(handle.local_addr(), rpc::ChannelOptions::default());
    let list: ListServicesReply = channel
        .call(
            &LIST_SERVICES,
            &mut RpcController::with_timeout(LONG),
            &ListServicesRequest {},
        )
        .unwrap();
    let shown: Vec<_> = list
        .services
        .iter()
        .map(|service| {
            let methods = service.methods.iter();
            let methods: Vec<_> = methods
                .map(|method| {
                    let stream = if method.server_streaming { "*" } else { "" };
                    format!("{}{stream}", method.name)
                })
                .collect();
            let (full_name, described) = (&service.full_name, service.described);
            format!(
                "{} {full_name} {described} {}",
                service.name,
                methods.join(",")
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Described test.Described true Get,Follow*",
            "Echo Echo false Say,Hold,Forget,Panic,Fail,Grow,Block",
            "Health rpc.builtin.Health true Check,Watch*",
            "Reflection rpc.builtin.Reflection true ListServices,Describe",
        ]
    );
}

#[test]
fn a_service_is_described_by_either_name() {
    let handle = serve_reflection();
    let channel = channel_to(handle.local_addr(), rpc::ChannelOptions::default());
    for name in ["Described", "test.Described"] {
        let reply = describe(&channel, name).unwrap();
        assert_eq!(reply.full_name, "test.Described");
        assert_eq!(reply.file_descriptor_set, "descriptors");
    }
    for name in ["Echo", "Nobody", ""] {
        let error = describe(&channel, name).unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{name}");
    }
}

/// With what it says of itself a tool can call it.
#[test]
fn the_descriptors_of_reflection_describe_what_is_served() {
    let handle = serve_reflection();
    let channel = channel_to(handle.local_addr(), rpc::ChannelOptions::default());
    for name in [REFLECTION, "Health"] {
        let reply = describe(&channel, name).unwrap();
        assert_eq!(reply.file_descriptor_set, FILE_DESCRIPTOR_SET);
        let pool = DescriptorPool::decode(&reply.file_descriptor_set[..]).unwrap();
        let service = pool.get_service_by_name(&reply.full_name).unwrap();
        assert_eq!(service.name(), name);
        let list: ListServicesReply = channel
            .call(
                &LIST_SERVICES,
                &mut RpcController::with_timeout(LONG),
                &ListServicesRequest {},
            )
            .unwrap();
        let listed = list.services.iter().find(|known| known.name == name);
        let methods = service.methods().map(|method| {
            let streaming = method.is_server_streaming();
            (method.name().to_owned(), streaming)
        });
        let listed = listed.unwrap().methods.iter();
        let listed = listed.map(|method| (method.name.clone(), method.server_streaming));
        assert!(methods.eq(listed), "{name}");
    }
    assert!(ListServicesRequest {}.encode_to_vec().is_empty());
}
