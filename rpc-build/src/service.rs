//! The text of a service: trait, adapter and stub.

use std::fmt::Write as _;

use prost_build::{Comments, Method, Service, ServiceGenerator};

use crate::descriptors::{ServiceFile, full_name};

/// Appends each service to the file of its package, and before the first service of a `.proto`
/// file the file's descriptors.
pub(crate) struct Generator {
    pub(crate) files: Vec<ServiceFile>,
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, out: &mut String) {
        let full_name = full_name(&service.package, &service.proto_name);
        let file = (self.files.iter())
            .find(|file| file.services.contains(&full_name))
            .expect("service_files() has listed every service of the set");
        // Named by its first service: the file's own name may be anything, and not the only one.
        let descriptor_set = format!("{}_FILE_DESCRIPTOR_SET", constant_case(&file.services[0]));

        if file.services[0] == full_name {
            write_descriptors(file, &descriptor_set, out);
        }
        write_trait(&service, out);
        write_adapter(&service, &full_name, &descriptor_set, out);
        write_stub(&service, out);
    }
}

fn write_descriptors(file: &ServiceFile, constant: &str, out: &mut String) {
    let (name, bytes) = (&file.name, file.descriptor_set.escape_ascii());
    text(
        out,
        format_args!(
            "/// `{name}` and what it imports, as an encoded `google.protobuf.FileDescriptorSet`.
const {constant}: &[u8] = b\"{bytes}\";

"
        ),
    );
}

fn write_trait(service: &Service, out: &mut String) {
    let Service {
        name, proto_name, ..
    } = service;
    write_docs(
        &service.comments,
        0,
        &format!("Service `{proto_name}`."),
        out,
    );
    text(
        out,
        format_args!("pub trait {name}: Send + Sync + 'static {{\n"),
    );
    for method in &service.methods {
        let fallback = format!("Method `{}`.", method.proto_name);
        write_docs(&method.comments, 1, &fallback, out);
        let (method_name, args, reply) = (&method.name, &method.input_type, &method.output_type);
        if method.server_streaming {
            text(
                out,
                format_args!(
                    "    ///
    /// Runs on the connection's event loop and must not block; `stream` may be kept and used from any thread,
    /// and ends the call: by `finish`, by `fail`, or, dropped without either, with `INTERNAL`.
    fn {method_name}(&self, context: ::rpc::RpcContext, args: {args}, stream: ::rpc::StreamSender<{reply}>);
"
                ),
            );
        } else {
            text(
                out,
                format_args!(
                    "    ///
    /// Runs on the connection's event loop and must not block; `done` may be run later, from any thread.
    fn {method_name}(&self, context: ::rpc::RpcContext, args: {args}, done: ::rpc::Done<{reply}>);
"
                ),
            );
        }
    }
    out.push_str("}\n\n");
}

fn write_adapter(service: &Service, full_name: &str, descriptor_set: &str, out: &mut String) {
    let Service {
        name, proto_name, ..
    } = service;
    let method_names: Vec<_> = service
        .methods
        .iter()
        .map(|method| format!("\"{}\"", method.proto_name))
        .collect();
    text(
        out,
        format_args!(
            "/// Registers a [`{name}`] with a provider.
pub struct {name}Service<T>(::std::sync::Arc<T>);

impl<T: {name}> {name}Service<T> {{
    /// Serves calls with `handler`.
    #[must_use]
    pub fn new(handler: ::std::sync::Arc<T>) -> Self {{
        Self(handler)
    }}
}}

impl<T: {name}> ::rpc::Service for {name}Service<T> {{
    fn name(&self) -> &'static str {{
        \"{proto_name}\"
    }}

    fn full_name(&self) -> &'static str {{
        \"{full_name}\"
    }}

    fn methods(&self) -> &'static [&'static str] {{
        &[{method_names}]
    }}

",
            method_names = method_names.join(", "),
        ),
    );
    write_is_streaming(&service.methods, out);
    text(
        out,
        format_args!(
            "    fn file_descriptor_set(&self) -> &'static [u8] {{
        {descriptor_set}
    }}

    fn call(
        &self,
        method: usize,
        context: ::rpc::RpcContext,
        args: ::rpc::__private::bytes::Bytes,
        reply: ::rpc::ReplySlot,
    ) {{
        match method {{
"
        ),
    );
    for (index, method) in service.methods.iter().enumerate() {
        let (answer, of) = if method.server_streaming {
            ("stream", "StreamSender")
        } else {
            ("done", "Done")
        };
        text(
            out,
            format_args!(
                "            {index} => {{
                let {answer} = ::rpc::{of}::new(reply);
                match <{args} as ::rpc::__private::prost::Message>::decode(args) {{
                    Ok(args) => self.0.{method}(context, args, {answer}),
                    Err(error) => {{
                        {answer}.refuse(::rpc::RpcError::new(
                            ::rpc::Code::InvalidArgument,
                            format!(\"the body does not decode as {proto_args}: {{error}}\"),
                        ));
                    }}
                }}
            }}
",
                args = method.input_type,
                proto_args = method.input_proto_type.trim_start_matches('.'),
                method = method.name,
            ),
        );
    }
    out.push_str(
        "            _ => unreachable!(\"the provider passes an index into methods()\"),
        }
    }
}

",
    );
}

/// Nothing, where the trait's own answer is right: no method is streaming.
fn write_is_streaming(methods: &[Method], out: &mut String) {
    let streaming = methods.iter().enumerate();
    let streaming = streaming.filter(|(_, method)| method.server_streaming);
    let indexes: Vec<_> = streaming.map(|(index, _)| index.to_string()).collect();
    if indexes.is_empty() {
        return;
    }
    text(
        out,
        format_args!(
            "    fn is_streaming(&self, method: usize) -> bool {{
        matches!(method, {indexes})
    }}

",
            indexes = indexes.join(" | "),
        ),
    );
}

fn write_stub(service: &Service, out: &mut String) {
    let Service {
        name, proto_name, ..
    } = service;
    text(
        out,
        format_args!(
            "/// Calls `{proto_name}` through a channel. Clones share the channel.
#[derive(Clone, Debug)]
pub struct {name}Stub {{
    channel: ::rpc::RpcChannel,
}}

impl {name}Stub {{
    /// Calls through `channel`.
    #[must_use]
    pub fn new(channel: ::rpc::RpcChannel) -> Self {{
        Self {{ channel }}
    }}
"
        ),
    );
    for method in &service.methods {
        let call = StubMethod {
            method,
            fallback: format!("Calls `{proto_name}.{}`.", method.proto_name),
            descriptor: format!(
                "const METHOD: ::rpc::MethodDescriptor =
            ::rpc::MethodDescriptor {{ service: \"{proto_name}\", method: \"{}\" }};",
                method.proto_name
            ),
        };
        if method.server_streaming {
            call.write_stream(out);
            call.write_stream_async(out);
        } else {
            call.write_call(out);
            call.write_call_async(out);
        }
    }
    out.push_str("}\n");
}

/// A method of which a stub has two forms.
struct StubMethod<'a> {
    method: &'a Method,
    /// What stands in for a comment.
    fallback: String,
    /// The declaration of the constant `METHOD`.
    descriptor: String,
}

impl StubMethod<'_> {
    fn write_call(&self, out: &mut String) {
        let Method {
            name,
            input_type: args,
            output_type: reply,
            ..
        } = self.method;
        let descriptor = &self.descriptor;
        self.write_docs(out);
        text(
            out,
            format_args!(
                "    ///
    /// Blocks the calling thread until the call ends: by its reply, deadline, cancellation or failure.
    ///
    /// # Errors
    /// What the handler failed with, or why no reply came; `controller` tells the same.
    pub fn {name}(
        &self,
        controller: &mut ::rpc::RpcController,
        args: &{args},
    ) -> ::std::result::Result<{reply}, ::rpc::RpcError> {{
        {descriptor}
        self.channel.call(&METHOD, controller, args)
    }}
"
            ),
        );
    }

    fn write_call_async(&self, out: &mut String) {
        let Method {
            input_type: args,
            output_type: reply,
            ..
        } = self.method;
        let (name, descriptor) = (self.async_name(), &self.descriptor);
        self.write_docs(out);
        text(
            out,
            format_args!(
                "    ///
    /// Returns at once; `done` runs exactly once, on the channel's event loop, and must not block.
    pub fn {name}(
        &self,
        controller: ::rpc::RpcController,
        args: &{args},
        done: impl ::std::ops::FnOnce(::std::result::Result<{reply}, ::rpc::RpcError>) + Send + 'static,
    ) {{
        {descriptor}
        self.channel.call_async(&METHOD, controller, args, done);
    }}
"
            ),
        );
    }

    fn write_stream(&self, out: &mut String) {
        let Method {
            name,
            input_type: args,
            output_type: item,
            ..
        } = self.method;
        let descriptor = &self.descriptor;
        self.write_docs(out);
        text(
            out,
            format_args!(
                "    ///
    /// Returns before the first item; the stream's `next` blocks the calling thread. Without a timeout or
    /// deadline at `controller` it may go on for ever. Dropping the stream cancels the call.
    ///
    /// # Errors
    /// Why the call could not begin. What ends it later is the stream's last item.
    pub fn {name}(
        &self,
        controller: &mut ::rpc::RpcController,
        args: &{args},
    ) -> ::std::result::Result<::rpc::RpcStream<{item}>, ::rpc::RpcError> {{
        {descriptor}
        self.channel.open_stream(&METHOD, controller, args)
    }}
"
            ),
        );
    }

    fn write_stream_async(&self, out: &mut String) {
        let Method {
            input_type: args,
            output_type: item,
            ..
        } = self.method;
        let (name, descriptor) = (self.async_name(), &self.descriptor);
        self.write_docs(out);
        text(
            out,
            format_args!(
                "    ///
    /// Returns at once; `on_item` runs for each item, then `done` exactly once, on the channel's event loop.
    /// Neither may block: while `on_item` runs nothing else is read. `start_cancel` of a clone of
    /// `controller` ends the stream early.
    pub fn {name}(
        &self,
        controller: ::rpc::RpcController,
        args: &{args},
        on_item: impl ::std::ops::FnMut({item}) + Send + 'static,
        done: impl ::std::ops::FnOnce(::std::result::Result<(), ::rpc::RpcError>) + Send + 'static,
    ) {{
        {descriptor}
        self.channel.call_stream_async(&METHOD, controller, args, on_item, done);
    }}
"
            ),
        );
    }

    fn write_docs(&self, out: &mut String) {
        out.push('\n');
        write_docs(&self.method.comments, 1, &self.fallback, out);
    }

    /// `get_async` for `get`, `type_async` for `r#type`, `self_async` for `self_`.
    fn async_name(&self) -> String {
        let name = &self.method.name;
        let name = name.strip_prefix("r#").unwrap_or(name);
        format!("{}_async", name.trim_end_matches('_'))
    }
}

/// The comments in the `.proto` file, or `fallback`. `depth` counts four spaces each.
///
/// Nothing in them becomes a doctest: lines lose their indentation, and fenced blocks are text.
fn write_docs(comments: &Comments, depth: u8, fallback: &str, out: &mut String) {
    let mut in_fence = false;
    let mut plain = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().map(|line| {
            let line = line.trim();
            in_fence ^= line.starts_with("```");
            match (line, in_fence) {
                ("```", true) => "```text".to_owned(),
                _ => line.to_owned(),
            }
        });
        lines.collect()
    };
    let mut docs = Comments {
        leading_detached: Vec::new(),
        leading: plain(&comments.leading),
        trailing: plain(&comments.trailing),
    };
    if docs.leading.is_empty() && docs.trailing.is_empty() {
        docs.leading.push(fallback.to_owned());
    }
    docs.append_with_indent(depth, out);
}

/// `FIEND_SERVICE_RPC` for `fixbug.FiendServiceRpc`.
fn constant_case(full_name: &str) -> String {
    let name = full_name.rsplit('.').next().unwrap_or(full_name);
    let mut constant = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !constant.is_empty() && !constant.ends_with('_') {
            constant.push('_');
        }
        constant.push(letter.to_ascii_uppercase());
    }
    constant
}

fn text(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any text");
}
