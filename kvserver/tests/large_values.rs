//! Values at the edge of what one message can carry.

mod common;

use bytes::Bytes;
use proto::kv::{KvServerRpcStub, PutAppendArgs};
use rpc::{Code, RpcChannel, RpcController};

use crate::common::{HANG_GUARD, Nodes};

const BODY_BYTES: usize = 1 << 20;

/// Failure 44: what could be appended here but fits into no message to a follower would
/// hold up every later write.
#[test]
fn an_entry_too_large_for_its_followers_is_refused_and_the_next_write_goes_on() {
    let nodes = Nodes::adjusted(3, |options| {
        options.limits.max_body_bytes = u32::try_from(BODY_BYTES).expect("1 MiB is a u32");
    });
    let leader = nodes.leader();
    let stub = KvServerRpcStub::new(RpcChannel::new(nodes.addr(leader)));
    let mut request_id = 0;
    let mut put = |value_bytes: usize| {
        request_id += 1;
        let args = PutAppendArgs {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![7; value_bytes]),
            op: Bytes::from_static(b"Put"),
            client_id: Bytes::from_static(b"c"),
            request_id,
            ..PutAppendArgs::default()
        };
        stub.put_append(&mut RpcController::with_timeout(HANG_GUARD), &args)
    };

    let refused =
        put(BODY_BYTES - 100).expect_err("the request fits, the message to a follower would not");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(!refused.may_have_executed());
    assert_eq!(
        put(BODY_BYTES - 5_000).expect("the largest that fits").err,
        "OK"
    );
    assert_eq!(put(1).expect("a small one after it").err, "OK");
}
