//! Echo by tonic: gRPC over HTTP/2, prost messages.
//!
//! Beyond its defaults: HTTP/2 windows that do not make a payload wait for a window update, and as
//! many streams as calls are in flight. Its limit on messages, 4 MiB, is above any payload here.
//! Calls have no deadline (its default), so it does less than the others.

use std::net::{SocketAddr, TcpListener};

use bytes::Bytes;
use futures::stream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::echo_client::EchoClient;

use generated::echo_client::EchoClient as Stub;
use generated::echo_server::{Echo, EchoServer};
use generated::{EchoArgs, EchoReply};

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]

    tonic::include_proto!("echo");
}

/// Calls that may be under way on a connection; the largest shape has 1024.
const STREAMS_MAX: u32 = 2048;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

#[derive(Debug)]
struct Service;

#[tonic::async_trait]
impl Echo for Service {
    async fn echo(&self, request: Request<EchoArgs>) -> Result<Response<EchoReply>, Status> {
        let payload = request.into_inner().payload;
        Ok(Response::new(EchoReply { payload }))
    }
}

/// Serves until dropped. Panics where there is no runtime.
pub(crate) async fn serve(listener: TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("within a runtime");
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await;
        let stream = accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream));
        Some((stream, listener))
    });
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(EchoServer::new(Service))
        .serve_with_incoming(incoming);
    // A client that waits in vain says that the server is gone.
    let _ = served.await;
}

/// A stub on one channel.
#[derive(Clone, Debug)]
pub(crate) struct Client(Stub<Channel>);

impl EchoClient for Client {
    async fn connect(addr: SocketAddr) -> Result<Client, String> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))
            .map_err(|error| error.to_string())?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .buffer_size(STREAMS_MAX as usize);
        let channel = endpoint.connect().await;
        Ok(Client(Stub::new(
            channel.map_err(|error| format!("{error:?}"))?,
        )))
    }

    async fn echo(&mut self, payload: Bytes) -> Result<usize, String> {
        let reply = self.0.echo(EchoArgs { payload }).await;
        match reply {
            Ok(reply) => Ok(reply.into_inner().payload.len()),
            Err(status) => Err(format!("tonic echo: {status}")),
        }
    }
}
