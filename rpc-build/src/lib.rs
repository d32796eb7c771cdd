//! Compiles `.proto` files for the `rpc` crate, from a build script, with no `protoc` installed.
//!
//! ```text
//! friend.proto --protox--> FileDescriptorSet --prost-build--> messages
//!                              │             `--service.rs--> trait, adapter, stub
//!                              └--descriptors.rs--> what the adapter tells who asks for descriptors
//! ```
//!
//! In `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), rpc_build::CompileError> {
//!     rpc_build::compile(&["friend.proto"], &["proto/"])
//! }
//! ```
//!
//! In the crate, for `package fixbug;`:
//!
//! ```text
//! include!(concat!(env!("OUT_DIR"), "/fixbug.rs"));
//! ```
//!
//! For `service Foo { rpc GetBar(BarArgs) returns (BarReply); }` this yields the trait `Foo` to
//! implement, `FooService` that registers an implementation with a provider, and `FooStub` that
//! calls one through a channel. On the wire a service goes by its simple name as written in the
//! file. Messages are prost's; their `bytes` fields are `bytes::Bytes`.
//!
//! | in the `.proto` | in the trait | in the stub |
//! |---|---|---|
//! | `rpc GetBar(Args) returns (Reply)` | `get_bar(&self, context, args, done: Done<Reply>)` | `get_bar`, `get_bar_async` |
//! | `rpc Watch(Args) returns (stream Event)` | `watch(&self, context, args, stream: StreamSender<Event>)` | `watch`, an `RpcStream<Event>`; `watch_async` |
//! | `rpc Put(stream Args) returns (Reply)` | refused: [`CompileError::ClientStreaming`] | |

use std::path::{Path, PathBuf};

use prost_build::Config;
use protox::prost_reflect::prost_types::FileDescriptorSet;

mod descriptors;
mod service;

/// Why the files could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The `.proto` files are wrong; the text names file, line and column.
    #[error("{0:?}")]
    Parse(#[source] protox::Error),
    /// A method takes a stream, which the wire format does not offer.
    #[error(
        "{file}: {service}.{method} takes a stream; only replies can be streams: \
         take one message, and be called several times"
    )]
    ClientStreaming {
        /// The file that defines the service.
        file: String,
        /// The service's simple name.
        service: String,
        /// The method's name.
        method: String,
    },
    /// The generated code could not be written.
    #[error("cannot write the generated code")]
    Write(#[source] std::io::Error),
}

/// Compiles `files`, looked up in the folders `includes`, into `OUT_DIR`: one file per package.
///
/// For build scripts only: it prints `cargo::rerun-if-changed` lines.
///
/// # Errors
/// [`CompileError`], whose text names the place in the `.proto` file.
pub fn compile(
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), CompileError> {
    for include in includes {
        #[expect(clippy::print_stdout, reason = "how a build script talks to cargo")]
        {
            println!("cargo::rerun-if-changed={}", include.as_ref().display());
        }
    }
    compile_with(&mut Config::new(), files, includes)
}

/// As [`compile`], into the folder `out_dir` and without a word to cargo.
///
/// # Errors
/// As [`compile`].
pub fn compile_into(
    out_dir: impl Into<PathBuf>,
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), CompileError> {
    compile_with(Config::new().out_dir(out_dir), files, includes)
}

fn compile_with(
    config: &mut Config,
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<(), CompileError> {
    let descriptors = describe(files, includes).map_err(CompileError::Parse)?;
    refuse_client_streaming(&descriptors)?;
    let generator = service::Generator {
        files: descriptors::service_files(&descriptors),
    };
    config
        .bytes(["."])
        .service_generator(Box::new(generator))
        .compile_fds(descriptors)
        .map_err(CompileError::Write)
}

/// Parses the files, comments included.
fn describe(
    files: &[impl AsRef<Path>],
    includes: &[impl AsRef<Path>],
) -> Result<FileDescriptorSet, protox::Error> {
    let mut compiler = protox::Compiler::new(includes)?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?;
    Ok(compiler.file_descriptor_set())
}

fn refuse_client_streaming(descriptors: &FileDescriptorSet) -> Result<(), CompileError> {
    for file in &descriptors.file {
        for service in &file.service {
            let mut methods = service.method.iter();
            if let Some(method) = methods.find(|method| method.client_streaming()) {
                return Err(CompileError::ClientStreaming {
                    file: file.name().to_owned(),
                    service: service.name().to_owned(),
                    method: method.name().to_owned(),
                });
            }
        }
    }
    Ok(())
}
