//! Calls `FiendServiceRpc.GetFriendsList` ten times on one connection.
//! Usage: `consumer [ADDR]`, by default `127.0.0.1:7788`.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::time::Duration;

use rpc::{RpcChannel, RpcController};
use rpc_friend::{FiendServiceRpcStub, GetFriendsListRequest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7788".to_owned());
    let stub = FiendServiceRpcStub::new(RpcChannel::new(addr.parse()?));

    for call in 1..=10 {
        let mut controller = RpcController::with_timeout(Duration::from_secs(5));
        let reply =
            stub.get_friends_list(&mut controller, &GetFriendsListRequest { userid: 1000 })?;
        if let Some(failure) = reply.result.filter(|result| result.errcode != 0) {
            println!(
                "call {call}: error {}",
                String::from_utf8_lossy(&failure.errmsg)
            );
            continue;
        }
        println!("call {call}:");
        for (index, friend) in reply.friends.iter().enumerate() {
            println!("  {}: {}", index + 1, String::from_utf8_lossy(friend));
        }
    }
    Ok(())
}
