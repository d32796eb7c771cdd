//! `kvctl`: looks into running servers, and into the files of a node that does not run.
//!
//! ```text
//! args.rs ──► main.rs ──► look.rs: list, describe, call ──► reflection.rs ──► server.rs: the channel
//!                │                    └──► json.rs, proto_text.rs                 ▲
//!                ├──────► wellbeing.rs: ping, health ─────────────────────────────┤
//!                ├──────► cluster.rs, cluster_status.rs: members ──────────────────┤
//!                ├──────► bench.rs ──► load.rs: calls, latencies ─────────────────┘
//!                ├──────► wal.rs, snapshot.rs: a node's files, by raft::storage::inspect
//!                ├──────► replay.rs: a node's run, by raft::record
//!                └──────► force_new_cluster.rs: the last resort, by raft::storage
//! ```
//!
//! But for `cluster`, which speaks the store's own `clusterRpc`, it knows no service beforehand: what a
//! server serves and how its messages look it asks the server's Reflection service.

mod args;
mod bench;
mod cluster;
mod cluster_status;
mod failure;
mod force_new_cluster;
mod json;
mod load;
mod look;
mod proto_text;
mod reflection;
mod replay;
mod server;
mod snapshot;
mod wal;
mod wellbeing;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::args::{Area, RpcCommand, SnapshotCommand, WalCommand};
use crate::failure::{Failure, exit_code};
use crate::server::Server;

fn main() -> ExitCode {
    // What goes wrong comes back as an error; the log is for who asks for it.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    exit_code(run())
}

fn run() -> Result<(), Failure> {
    let Some(args) = args::parse()? else {
        return Ok(());
    };
    match args.area {
        Area::Rpc(command) => rpc(*command),
        Area::Cluster(command) => cluster::run(*command),
        Area::Wal(WalCommand::Dump { dir, json }) => wal::dump(&dir, json),
        Area::Wal(WalCommand::Verify { dir }) => wal::verify(&dir),
        Area::Snapshot(SnapshotCommand::Inspect { file, json }) => snapshot::inspect(&file, json),
        Area::Replay(args) => replay::replay(args),
        Area::ForceNewCluster(args) => force_new_cluster::force(args),
    }
}

fn rpc(command: RpcCommand) -> Result<(), Failure> {
    match command {
        RpcCommand::List { server } => look::list(&Server::new(server)?),
        RpcCommand::Describe { server, name } => look::describe(&Server::new(server)?, &name),
        RpcCommand::Call {
            server,
            method,
            json,
            defaults,
        } => look::call(&Server::new(server)?, &method, json, defaults),
        RpcCommand::Ping {
            server,
            count,
            interval,
        } => wellbeing::ping(&Server::new(server)?, count, interval),
        RpcCommand::Health {
            server,
            service,
            watch,
        } => wellbeing::health(&Server::new(server)?, &service, watch),
        RpcCommand::Bench(args) => bench::bench(args),
    }
}
