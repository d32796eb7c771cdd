//! Generates the messages, trait and stub of `proto/echo.proto`.

fn main() -> Result<(), rpc_build::CompileError> {
    rpc_build::compile(&["echo.proto"], &["proto/"])
}
