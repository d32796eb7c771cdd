//! The server that is looked into.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use rpc::{Balance, ChannelOptions, EventLoops, RpcChannel, RpcController, TlsClient, TlsError};

use crate::args::ServerArgs;
use crate::failure::Failure;

pub(crate) struct Server {
    /// As on the command line.
    pub(crate) addr: String,
    /// What the name stands for; the first that is up gets the calls.
    resolved: Vec<SocketAddr>,
    pub(crate) channel: RpcChannel,
    tls: Option<TlsClient>,
    args: ServerArgs,
}

impl Server {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// `addr` is no address, or a name that nobody knows; files for TLS that cannot be used.
    pub(crate) fn new(args: ServerArgs) -> Result<Server, Failure> {
        let addr = args.addr.clone();
        let (host, port) = addr.rsplit_once(':').unwrap_or_default();
        if port.parse::<u16>().is_err() {
            let text = format!("{addr} is no address: write HOST:PORT, as in 127.0.0.1:7788");
            return Err(Failure::Usage(text));
        }
        let tls = tls(&args, host)?;
        let resolved: Vec<_> = addr
            .to_socket_addrs()
            .map_err(|error| Failure::Failed(format!("cannot resolve {addr}: {error}")))?
            .collect();
        let options = ChannelOptions {
            tls: tls.clone(),
            ..ChannelOptions::default()
        };
        Ok(Server {
            channel: RpcChannel::over(&resolved, Balance::PickFirst, options),
            addr,
            resolved,
            tls,
            args,
        })
    }

    /// How long a call may take, if the command line says so.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.args.timeout
    }

    /// Another server, called in the same way.
    pub(crate) fn other(&self, addr: &str) -> Result<Server, Failure> {
        Server::new(ServerArgs {
            addr: addr.to_owned(),
            ..self.args.clone()
        })
    }

    /// A connection of its own, on one of `loops`.
    pub(crate) fn another_channel(&self, loops: &EventLoops) -> RpcChannel {
        let options = ChannelOptions {
            loops: Some(loops.clone()),
            tls: self.tls.clone(),
            ..ChannelOptions::default()
        };
        RpcChannel::over(&self.resolved, Balance::PickFirst, options)
    }

    /// A controller for one call, or one after the other, with what the command line says of calls.
    pub(crate) fn controller(&self) -> RpcController {
        let controller = RpcController::new();
        if let Some(timeout) = self.args.timeout {
            controller.set_timeout(timeout);
        }
        for (key, value) in &self.args.metadata {
            controller.set_metadata(key.clone(), value.clone());
        }
        if let Some(token) = &self.args.token {
            controller.set_metadata("authorization", format!("Bearer {token}"));
        }
        controller
    }
}

/// What the command line says of TLS. `host` may be an IPv6 address in brackets.
fn tls(args: &ServerArgs, host: &str) -> Result<Option<TlsClient>, Failure> {
    let Some(roots) = &args.tls_roots else {
        return Ok(None);
    };
    let failed = |error: TlsError| Failure::Failed(error.to_string());
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = args.tls_name.as_deref().unwrap_or(host);
    let mut client = TlsClient::new(roots, name).map_err(failed)?;
    if let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) {
        client = client.with_identity(certificate, key).map_err(failed)?;
    }
    Ok(Some(client))
}
