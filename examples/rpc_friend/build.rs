//! Generates the messages, trait and stub of `proto/friend.proto`.

fn main() -> Result<(), rpc_build::CompileError> {
    rpc_build::compile(&["friend.proto"], &["proto/"])
}
