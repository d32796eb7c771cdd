//! `cluster`: changes of a cluster's members and leader, asked of whoever leads.

use proto::membership::{
    AddLearnerArgs, ChangeReply, ClusterRpcStub, NodeArgs, ReplaceArgs, TransferArgs, TransferReply,
};
use rpc::{RpcController, RpcError};

use crate::args::{ClusterCommand, ServerArgs};
use crate::cluster_status;
use crate::failure::{Failure, print};
use crate::server::Server;

/// Nodes that may send us on to another one: leaders change, but not that often.
const MAX_HINTS: usize = 4;

pub(crate) fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status { server, json } => cluster_status::status(server, json),
        ClusterCommand::Add {
            server,
            node,
            address,
        } => {
            let args = AddLearnerArgs {
                node,
                address: address.to_string(),
            };
            let entry = ask(server, |stub, controller| {
                stub.add_learner(controller, &args)
            })?;
            print(format_args!(
                "node {node} at {address} is a learner (entry {entry})"
            ))
        }
        ClusterCommand::Promote { server, node } => {
            let args = NodeArgs { node };
            let entry = ask(server, |stub, controller| stub.promote(controller, &args))?;
            print(format_args!("node {node} is a voter (entry {entry})"))
        }
        ClusterCommand::Remove { server, node } => {
            let args = NodeArgs { node };
            let entry = ask(server, |stub, controller| stub.remove(controller, &args))?;
            print(format_args!(
                "node {node} is no member any longer (entry {entry})"
            ))
        }
        ClusterCommand::Replace { server, old, new } => {
            let args = ReplaceArgs { old, new };
            let entry = ask(server, |stub, controller| stub.replace(controller, &args))?;
            print(format_args!(
                "node {new} is a voter in the place of node {old} (entry {entry})"
            ))
        }
        ClusterCommand::Transfer { server, to } => {
            let args = TransferArgs { to };
            let leader = ask(server, |stub, controller| {
                stub.transfer_leadership(controller, &args)
            })?;
            print(format_args!("node {leader} leads"))
        }
    }
}

/// What a leader answers.
trait Outcome {
    /// The number that tells of its success.
    fn done(&self) -> u64;
    /// Why it was not done, or may not have been; empty if it was.
    fn trouble(&self) -> &str;
    /// Whom to ask instead, if anybody.
    fn leader_address(&self) -> &str;
}

impl Outcome for ChangeReply {
    fn done(&self) -> u64 {
        self.index
    }

    fn trouble(&self) -> &str {
        match self.unknown.as_str() {
            "" => &self.refused,
            unknown => unknown,
        }
    }

    fn leader_address(&self) -> &str {
        // What was begun must not be begun again elsewhere.
        let may_ask = self.unknown.is_empty();
        if may_ask { &self.leader_address } else { "" }
    }
}

impl Outcome for TransferReply {
    fn done(&self) -> u64 {
        self.leader
    }

    fn trouble(&self) -> &str {
        &self.refused
    }

    fn leader_address(&self) -> &str {
        &self.leader_address
    }
}

/// Asks a member, and then whomever it says to ask.
fn ask<R: Outcome>(
    server: ServerArgs,
    call: impl Fn(&ClusterRpcStub, &mut RpcController) -> Result<R, RpcError>,
) -> Result<u64, Failure> {
    let mut server = Server::new(server)?;
    let mut hints = 0;
    loop {
        let stub = ClusterRpcStub::new(server.channel.clone());
        let reply = call(&stub, &mut server.controller());
        let reply = reply.map_err(|error| Failure::of_call(&server.addr, &error))?;
        let hint = reply.leader_address();
        if reply.trouble().is_empty() {
            return Ok(reply.done());
        }
        if hint.is_empty() || hint == server.addr || hints == MAX_HINTS {
            return Err(Failure::Failed(reply.trouble().to_owned()));
        }
        server = server.other(hint)?;
        hints += 1;
    }
}
