//! `list`, `describe`, `call`: what a server serves.

use rpc::{RpcError, RpcStream};

use crate::args::{MethodName, split_method};
use crate::failure::{Failure, print};
use crate::reflection::{self, Method};
use crate::server::Server;
use crate::{json, proto_text};

pub(crate) fn list(server: &Server) -> Result<(), Failure> {
    for service in reflection::list(server)? {
        let note = if service.described {
            ""
        } else {
            " (without descriptors)"
        };
        print(format_args!("{}{note}", service.full_name))?;
        for method in service.methods {
            let stream = if method.server_streaming {
                " (stream)"
            } else {
                ""
            };
            print(format_args!("  {}.{}{stream}", service.name, method.name))?;
        }
    }
    Ok(())
}

pub(crate) fn describe(server: &Server, name: &str) -> Result<(), Failure> {
    let (service, method) = match (reflection::service(server, name)?, split_method(name)) {
        (Some(service), _) => (service, None),
        (None, None) => return Err(reflection::no_service(server, name)),
        (None, Some(name)) => {
            let service = reflection::service(server, &name.service)?
                .ok_or_else(|| reflection::no_service(server, &name.service))?;
            let method = reflection::method_of(&service, &name.method)?;
            (service, Some(method))
        }
    };
    let methods = match &method {
        Some(method) => vec![method.clone()],
        None => service.methods().collect(),
    };
    print(proto_text::describe(&service, &methods).trim_end())?;
    if let Some(method) = method {
        let form = json::form(&method.input());
        let (addr, service, method) = (&server.addr, service.name(), method.name());
        print(format_args!(
            "\n// kvctl rpc call {addr} {service}.{method} '{form}'"
        ))?;
    }
    Ok(())
}

pub(crate) fn call(
    server: &Server,
    name: &MethodName,
    json: String,
    defaults: bool,
) -> Result<(), Failure> {
    let json = json::argument(json)?;
    let method = Method::find(server, name)?;
    let args = method.encode_args(&json)?;
    let failed = |error: RpcError| {
        let what = format!("{} at {}", method.name(), server.addr);
        Failure::of_call(what, &error)
    };
    let mut controller = server.controller();
    if !method.is_streaming() {
        let reply = server.channel.call_raw(method.call, &mut controller, args);
        return print(method.decode_reply(reply.map_err(failed)?, defaults)?);
    }
    let stream: Result<RpcStream<_>, _> =
        (server.channel).open_stream_raw(method.call, &mut controller, args);
    for item in stream.map_err(failed)? {
        print(method.decode_reply(item.map_err(failed)?, defaults)?)?;
    }
    Ok(())
}
