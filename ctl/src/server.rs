//! The server that is looked into.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use rpc::{Balance, ChannelOptions, EventLoops, RpcChannel, RpcController};

use crate::args::ServerArgs;
use crate::failure::Failure;

pub(crate) struct Server {
    /// As on the command line.
    pub(crate) addr: String,
    /// What the name stands for; the first that is up gets the calls.
    resolved: Vec<SocketAddr>,
    pub(crate) channel: RpcChannel,
    args: ServerArgs,
}

impl Server {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// `addr` is no address, or a name that nobody knows.
    pub(crate) fn new(args: ServerArgs) -> Result<Server, Failure> {
        let addr = args.addr.clone();
        let port = addr.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            let text = format!("{addr} is no address: write HOST:PORT, as in 127.0.0.1:7788");
            return Err(Failure::Usage(text));
        }
        let resolved: Vec<_> = addr
            .to_socket_addrs()
            .map_err(|error| Failure::Failed(format!("cannot resolve {addr}: {error}")))?
            .collect();
        Ok(Server {
            channel: RpcChannel::over(&resolved, Balance::PickFirst, ChannelOptions::default()),
            addr,
            resolved,
            args,
        })
    }

    /// How long a call may take, if the command line says so.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.args.timeout
    }

    /// A connection of its own, on one of `loops`.
    pub(crate) fn another_channel(&self, loops: &EventLoops) -> RpcChannel {
        let options = ChannelOptions {
            loops: Some(loops.clone()),
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
