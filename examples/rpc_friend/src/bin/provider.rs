//! Serves `FiendServiceRpc.GetFriendsList`. Usage: `provider [ADDR]`, by default `127.0.0.1:7788`.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::sync::Arc;

use rpc::{Done, ProviderOptions, RpcContext, RpcProvider};
use rpc_friend::{
    FiendServiceRpc, FiendServiceRpcService, GetFriendsListRequest, GetFriendsListResponse,
    ResultCode,
};

struct Friends;

impl FiendServiceRpc for Friends {
    fn get_friends_list(
        &self,
        context: RpcContext,
        args: GetFriendsListRequest,
        done: Done<GetFriendsListResponse>,
    ) {
        println!(
            "{} asks for the friends of user {}",
            context.peer_addr(),
            args.userid
        );
        done.run(GetFriendsListResponse {
            result: Some(ResultCode::default()),
            friends: ["gao yang", "liu hong", "wang shuo"]
                .map(Into::into)
                .to_vec(),
        });
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let addr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7788".to_owned());

    let mut provider = RpcProvider::new(ProviderOptions::default());
    provider.notify_service(FiendServiceRpcService::new(Arc::new(Friends)))?;
    provider.notify_builtin_services()?; // for kvctl and its like
    let handle = provider.start(addr)?;
    println!("serving FiendServiceRpc at {}", handle.local_addr());
    loop {
        std::thread::park(); // `handle` serves until Ctrl+C ends the process
    }
}
