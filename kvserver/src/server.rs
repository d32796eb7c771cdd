//! One node of the store, put together: state machine, Raft node, services, provider.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use proto::kv::KvServerRpcService;
use proto::membership::ClusterRpcService;
use proto::raft::RaftRpcService;
use raft::{
    ClusterService, FatalError, NodeHandle, NodeId, NodeOptions, NodeStatus, RaftNode, RaftService,
    Role, TransferError, TransferFailure,
};
use rpc::{EventLoops, Limits, ProviderError, ProviderHandle, ProviderOptions, RpcProvider};

use crate::applier::{Applier, ApplierError, Gauges};
use crate::engine::{EngineError, MemoryEngine};
use crate::log_clock::LogClock;
use crate::request::Request;
use crate::service::KvService;
use crate::state_machine::StateMachineOptions;

/// What an entry's message to a follower holds besides the entry, in bytes; amply.
const ENTRY_OVERHEAD_BYTES: usize = 4096;

/// How to run one node of the store.
#[derive(Clone)]
pub struct KvServerOptions {
    /// The node: who it is, where its peers and its data are, and its bounds. Its `loops` carry the
    /// provider's connections as well.
    pub node: NodeOptions,
    /// Where to listen; by default the node's own address in the cluster file.
    pub listen: SocketAddr,
    /// The bounds of the state machine.
    pub store: StateMachineOptions,
    /// The bounds of the connections.
    pub limits: Limits,
}

impl KvServerOptions {
    /// The defaults for a node that listens where its peers look for it.
    ///
    /// # Errors
    /// [`StartError::NotAMember`] if the node is none of the initial members: one that is to join a
    /// running cluster is [told where to listen](Self::listening).
    pub fn new(node: NodeOptions) -> Result<Self, StartError> {
        let address = node.initial.addresses().get(&node.id);
        let listen =
            address
                .and_then(|address| address.parse().ok())
                .ok_or(StartError::NotAMember {
                    id: node.id,
                    members: node.initial.voters().len(),
                })?;
        Ok(Self::listening(node, listen))
    }

    /// The defaults for a node that listens there.
    #[must_use]
    pub fn listening(node: NodeOptions, listen: SocketAddr) -> Self {
        Self {
            node,
            listen,
            store: StateMachineOptions::default(),
            limits: Limits::default(),
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no such node.
    #[error("there is no node {id} among {members} nodes; they are numbered from 0")]
    NotAMember {
        /// The node asked for.
        id: raft::NodeId,
        /// How many there are.
        members: usize,
    },
    /// The Raft node did not start.
    #[error(transparent)]
    Node(#[from] raft::StartError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The provider did not start.
    #[error("{error}: {}", source_of(error))]
    Provider {
        /// Why.
        error: ProviderError,
    },
    /// The system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// Why a running node stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The Raft node stopped.
    #[error(transparent)]
    Node(#[from] FatalError),
    /// The state machine stopped.
    #[error(transparent)]
    Applier(#[from] ApplierError),
    /// The applier panicked.
    #[error("the applier panicked; see its message above")]
    Panic,
}

/// How [`KvServer::hand_over`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handover {
    /// This node does not lead.
    NotLeading,
    /// That node leads now.
    To(NodeId),
    /// This node leads on, for that reason.
    Failed(TransferFailure),
    /// It had not ended within the limit.
    Unfinished,
}

/// A running node of the store. Dropping it stops it.
pub struct KvServer {
    /// Stopped after the node, so that it need not wait for requests. `None` once stopped.
    provider: Option<ProviderHandle>,
    node: Option<RaftNode<Request>>,
    applier: Option<JoinHandle<Result<(), ApplierError>>>,
    stopped: Receiver<()>,
    handle: NodeHandle<Request>,
    local_addr: SocketAddr,
}

impl KvServer {
    /// Recovers the node's state, starts its threads, and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub fn start(options: KvServerOptions) -> Result<Self, StartError> {
        let KvServerOptions {
            node: node_options,
            listen,
            store,
            limits,
        } = options;
        let id = node_options.id;
        let cluster_id = node_options.cluster_id;
        let loops: EventLoops = node_options.loops.clone();

        let (node, apply_chan) = RaftNode::start(node_options)?;
        if let Some(torn) = node.torn_tail() {
            tracing::warn!(
                file = %torn.file.display(), offset = torn.offset, bytes = torn.bytes_dropped,
                "dropped the end of the log, which a crash had cut off"
            );
        }
        let handle = node.handle();
        let clock = Arc::new(LogClock::new(Instant::now()));
        let gauges = Arc::new(Gauges::default());

        let applier = Applier::new(
            Box::new(|| Ok(MemoryEngine::new())),
            store,
            handle.clone(),
            Arc::clone(&clock),
            Arc::clone(&gauges),
        )?;
        let (running, stopped) = bounded(0);
        let applier = std::thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || {
                // Dropped when this thread ends, however it ends: `stopped` then disconnects.
                let _running = running;
                applier.run(&apply_chan).inspect_err(|error| {
                    tracing::error!(%error, "the state machine stops");
                })
            })
            .map_err(StartError::Thread)?;

        let max_body_bytes = usize::try_from(limits.max_body_bytes).unwrap_or(usize::MAX);
        let max_entry_bytes = max_body_bytes.saturating_sub(ENTRY_OVERHEAD_BYTES);
        let mut provider = RpcProvider::new(ProviderOptions {
            loops: Some(loops),
            limits,
            ..ProviderOptions::default()
        });
        let raft_service = RaftService::new(handle.clone(), id, cluster_id);
        let cluster_service = ClusterService::new(handle.clone(), cluster_id);
        let kv_service = KvService {
            node: handle.clone(),
            status: handle.status_reader(),
            clock,
            gauges,
            max_entry_bytes,
        };
        let provider = provider
            .notify_service(RaftRpcService::new(Arc::new(raft_service)))
            .and_then(|()| provider.notify_service(KvServerRpcService::new(Arc::new(kv_service))))
            .and_then(|()| {
                provider.notify_service(ClusterRpcService::new(Arc::new(cluster_service)))
            })
            .and_then(|()| provider.notify_builtin_services())
            .and_then(|()| provider.start(listen))
            .map_err(|error| StartError::Provider { error })?;

        Ok(Self {
            local_addr: provider.local_addr(),
            provider: Some(provider),
            node: Some(node),
            applier: Some(applier),
            stopped,
            handle,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the node knows of itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.handle.status()
    }

    /// Disconnects when the node stops by itself; then [`KvServer::shutdown`] tells why.
    #[must_use]
    pub fn stopped(&self) -> &Receiver<()> {
        &self.stopped
    }

    /// As leader: hands leadership to `to`, or to whoever is nearest, and waits until another leads,
    /// for `limit` at most (thesis §3.10). Before a stop it spares the clients an election.
    #[must_use = "whether another leads now"]
    pub fn hand_over(&self, to: Option<NodeId>, limit: Duration) -> Handover {
        if self.status().role != Role::Leader {
            return Handover::NotLeading;
        }
        let (answer, answered) = bounded(1);
        self.handle.transfer_leadership(to, move |outcome| {
            let _ = answer.send(outcome); // nobody waits any longer
        });
        match answered.recv_timeout(limit) {
            Ok(Ok(leader)) => Handover::To(leader),
            Ok(Err(TransferFailure::Refused(TransferError::NotLeader { .. }))) => {
                Handover::NotLeading
            }
            Ok(Err(failure)) => Handover::Failed(failure),
            Err(_) => Handover::Unfinished,
        }
    }

    /// Stops in order: refuses the requests that wait and those that still come, finishes the write
    /// under way, takes no more requests, joins the threads.
    ///
    /// # Errors
    /// Why the node had stopped before by itself.
    pub fn shutdown(mut self) -> Result<(), ServerError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), ServerError> {
        // The node goes first: its requests are refused at once, and the provider need not wait
        // for them.
        let node = self.node.take().map_or(Ok(()), RaftNode::shutdown);
        self.provider = None;
        let applier = match self.applier.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome.map_err(ServerError::from),
            Some(Err(_)) => Err(ServerError::Panic),
            None => Ok(()),
        };
        // The applier's reason is the cause where both have one.
        applier.and(node.map_err(ServerError::from))
    }
}

impl Drop for KvServer {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the node had failed");
        }
    }
}

fn source_of(error: &ProviderError) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}
