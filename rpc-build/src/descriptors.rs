//! What a generated service shows to those who ask a server what it offers.

use std::collections::BTreeSet;

use protox::prost_reflect::prost::Message as _;
use protox::prost_reflect::prost_types::{FileDescriptorProto, FileDescriptorSet};

/// A file that defines services, with all that it imports.
pub(crate) struct ServiceFile {
    /// As `import` would name it.
    pub(crate) name: String,
    /// The services' names with their package, in the order of the file.
    pub(crate) services: Vec<String>,
    /// An encoded `FileDescriptorSet`, imported files before those that import them. Without
    /// comments and places in the source, and without options of one's own (`extend`).
    pub(crate) descriptor_set: Vec<u8>,
}

/// The files of `all` that define services. `all` has imported files before those that import them.
pub(crate) fn service_files(all: &FileDescriptorSet) -> Vec<ServiceFile> {
    let with_services = all.file.iter().filter(|file| !file.service.is_empty());
    with_services
        .map(|file| ServiceFile {
            name: file.name().to_owned(),
            services: (file.service.iter())
                .map(|service| full_name(file.package(), service.name()))
                .collect(),
            descriptor_set: with_imports(file, all).encode_to_vec(),
        })
        .collect()
}

/// A service's name in the descriptors: `fixbug.FiendServiceRpc`.
pub(crate) fn full_name(package: &str, service: &str) -> String {
    match package {
        "" => service.to_owned(),
        package => format!("{package}.{service}"),
    }
}

/// The file and whatever it imports, in the order of `all`.
fn with_imports(file: &FileDescriptorProto, all: &FileDescriptorSet) -> FileDescriptorSet {
    let mut wanted = BTreeSet::from([file.name()]);
    // Backwards, whoever imports a file is seen before it.
    for file in all.file.iter().rev() {
        if wanted.contains(file.name()) {
            wanted.extend(file.dependency.iter().map(String::as_str));
        }
    }
    let files = all.file.iter().filter(|file| wanted.contains(file.name()));
    FileDescriptorSet {
        file: files
            .map(|file| FileDescriptorProto {
                source_code_info: None,
                ..file.clone()
            })
            .collect(),
    }
}
