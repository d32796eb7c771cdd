//! The text of a service: trait, adapter and stub.

use std::fmt::Write as _;

use prost_build::{Comments, Service, ServiceGenerator};

/// Appends each service to the file of its package.
pub(crate) struct Generator;

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, out: &mut String) {
        write_trait(&service, out);
        write_adapter(&service, out);
        write_stub(&service, out);
    }
}

fn write_trait(service: &Service, out: &mut String) {
    let Service {
        name, proto_name, ..
    } = service;
    write_docs(
        &service.comments,
        "",
        &format!("Service `{proto_name}`."),
        out,
    );
    text(
        out,
        format_args!("pub trait {name}: Send + Sync + 'static {{\n"),
    );
    for method in &service.methods {
        let fallback = format!("Method `{}`.", method.proto_name);
        write_docs(&method.comments, "    ", &fallback, out);
        text(
            out,
            format_args!(
                "    ///
    /// Runs on the connection's event loop and must not block; `done` may be run later, from any thread.
    fn {method}(&self, context: ::rpc::RpcContext, args: {args}, done: ::rpc::Done<{reply}>);
",
                method = method.name,
                args = method.input_type,
                reply = method.output_type,
            ),
        );
    }
    out.push_str("}\n\n");
}

fn write_adapter(service: &Service, out: &mut String) {
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

    fn methods(&self) -> &'static [&'static str] {{
        &[{method_names}]
    }}

    fn call(
        &self,
        method: usize,
        context: ::rpc::RpcContext,
        args: ::rpc::__private::bytes::Bytes,
        reply: ::rpc::ReplySlot,
    ) {{
        match method {{
",
            method_names = method_names.join(", "),
        ),
    );
    for (index, method) in service.methods.iter().enumerate() {
        text(
            out,
            format_args!(
                "            {index} => {{
                let done = ::rpc::Done::new(reply);
                match <{args} as ::rpc::__private::prost::Message>::decode(args) {{
                    Ok(args) => self.0.{method}(context, args, done),
                    Err(error) => {{
                        done.refuse(::rpc::RpcError::new(
                            ::rpc::Code::InvalidArgument,
                            format!(\"the body does not decode as {args}: {{error}}\"),
                        ));
                    }}
                }}
            }}
",
                args = method.input_type,
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
        let fallback = format!("Calls `{proto_name}.{}`.", method.proto_name);
        let descriptor = format!(
            "const METHOD: ::rpc::MethodDescriptor =
            ::rpc::MethodDescriptor {{ service: \"{proto_name}\", method: \"{}\" }};",
            method.proto_name
        );
        let (args, reply, method_name) = (&method.input_type, &method.output_type, &method.name);
        out.push('\n');
        write_docs(&method.comments, "    ", &fallback, out);
        text(
            out,
            format_args!(
                "    ///
    /// Blocks the calling thread until the call ends: by its reply, deadline, cancellation or failure.
    ///
    /// # Errors
    /// What the handler failed with, or why no reply came; `controller` tells the same.
    pub fn {method_name}(
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
        write_docs(&method.comments, "    ", &fallback, out);
        text(
            out,
            format_args!(
                "    ///
    /// Returns at once; `done` runs exactly once, on the channel's event loop, and must not block.
    pub fn {method_name}_async(
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
    out.push_str("}\n");
}

/// The comment in the `.proto` file, or `fallback`.
fn write_docs(comments: &Comments, indent: &str, fallback: &str, out: &mut String) {
    if comments.leading.is_empty() {
        text(out, format_args!("{indent}/// {fallback}\n"));
    }
    for paragraph in &comments.leading {
        for line in paragraph.lines() {
            text(
                out,
                format_args!("{}\n", format!("{indent}/// {}", line.trim()).trim_end()),
            );
        }
    }
}

fn text(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any text");
}
