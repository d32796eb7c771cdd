//! What a node tells those who look into it.

mod common;

use rpc::builtin::{
    HEALTH_CHECK, HealthReply, HealthRequest, LIST_SERVICES, ListServicesReply,
    ListServicesRequest, ServingStatus,
};
use rpc::{RpcChannel, RpcController, RpcError};

use crate::common::{HANG_GUARD, Nodes};

#[test]
fn a_node_tells_what_it_serves_and_how_it_is() -> Result<(), RpcError> {
    let nodes = Nodes::start(1);
    let channel = RpcChannel::new(nodes.addr(0));
    let mut controller = RpcController::with_timeout(HANG_GUARD);
    let offered: ListServicesReply =
        channel.call(&LIST_SERVICES, &mut controller, &ListServicesRequest {})?;
    for name in ["kv.kvServerRpc", "raft.raftRpc"] {
        let mut services = offered.services.iter();
        let service = services.find(|service| service.full_name == name);
        assert!(service.is_some_and(|it| it.described), "{offered:?}");
    }
    let health: HealthReply =
        channel.call(&HEALTH_CHECK, &mut controller, &HealthRequest::default())?;
    assert_eq!(health.status(), ServingStatus::Serving);
    Ok(())
}
