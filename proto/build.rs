//! Generates messages, service traits and stubs from `proto/*.proto`.

fn main() -> Result<(), rpc_build::CompileError> {
    rpc_build::compile(&["kv.proto", "membership.proto", "raft.proto"], &["proto/"])
}
