//! The echo service, as generated from `proto/echo.proto`, and a server of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rpc::{
    Done, ProviderError, ProviderHandle, ProviderOptions, RpcContext, RpcProvider, TlsServer,
};

pub use generated::{Echo, EchoArgs, EchoReply, EchoService, EchoStub};

mod generated {
    #![allow(
        missing_docs,
        clippy::pedantic,
        reason = "generated; the messages are described in echo.proto"
    )]

    rpc::include_proto!("echo");
}

struct Server;

impl Echo for Server {
    fn echo(&self, _context: RpcContext, args: EchoArgs, done: Done<EchoReply>) {
        done.run(EchoReply {
            payload: args.payload,
        });
    }
}

/// Serves echoes from one event loop at a port that the system chooses, over TLS if it is given.
///
/// # Errors
/// No port, or no thread.
pub fn serve(tls: Option<TlsServer>) -> Result<ProviderHandle, ProviderError> {
    let mut provider = RpcProvider::new(ProviderOptions {
        threads: 1,
        tls,
        ..ProviderOptions::default()
    });
    provider.notify_service(EchoService::new(Arc::new(Server)))?;
    provider.start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}
