//! The builtin services, as a caller sees them.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::path::Path;

use prost::Message;
use prost::bytes::Bytes;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value};
use rpc::builtin::{
    DescribeReply, FILE_DESCRIPTOR_SET, HealthReply, ListServicesReply, MethodInfo, ServiceInfo,
    ServingStatus,
};

/// `UPDATE_GOLDEN=1` writes the file anew.
#[test]
fn the_embedded_descriptors_are_those_of_the_proto_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let compiled = protox::Compiler::new([&folder])
        .unwrap()
        .include_source_info(false)
        .include_imports(true)
        .open_file("builtin.proto")
        .unwrap()
        .encode_file_descriptor_set();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(folder.join("builtin.binpb"), &compiled).unwrap();
        return;
    }
    assert!(
        compiled == FILE_DESCRIPTOR_SET,
        "proto/builtin.proto has changed: UPDATE_GOLDEN=1 cargo test -p rpc --test builtin"
    );
}

/// A message read by its descriptor.
fn read(name: &str, bytes: &[u8]) -> DynamicMessage {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let descriptor = pool.get_message_by_name(name).unwrap();
    DynamicMessage::decode(descriptor, bytes).unwrap()
}

#[test]
fn the_messages_written_by_hand_are_those_of_the_proto_file() {
    let reply = ListServicesReply {
        services: vec![ServiceInfo {
            name: "Echo".into(),
            full_name: "test.Echo".into(),
            methods: vec![MethodInfo {
                name: "Say".into(),
                server_streaming: true,
            }],
            described: true,
        }],
    };
    let list = read("rpc.builtin.ListServicesReply", &reply.encode_to_vec());
    assert_eq!(
        list.to_string(),
        "services:[{name:\"Echo\",full_name:\"test.Echo\",\
         methods:[{name:\"Say\",server_streaming:true}],described:true}]"
    );

    let reply = DescribeReply {
        full_name: "test.Echo".into(),
        file_descriptor_set: Bytes::from_static(b"set"),
    };
    let described = read("rpc.builtin.DescribeReply", &reply.encode_to_vec());
    assert_eq!(
        described.to_string(),
        "full_name:\"test.Echo\",file_descriptor_set:\"set\""
    );

    for status in [
        ServingStatus::Unknown,
        ServingStatus::Serving,
        ServingStatus::NotServing,
    ] {
        let reply = HealthReply {
            status: status.into(),
        };
        let health = read("rpc.builtin.HealthReply", &reply.encode_to_vec());
        let number = health.get_field_by_name("status").unwrap();
        assert_eq!(*number, Value::EnumNumber(status.into()));
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        let names = pool.get_enum_by_name("rpc.builtin.ServingStatus").unwrap();
        assert_eq!(
            names.get_value(status.into()).unwrap().name(),
            status.name()
        );
    }
}
