//! Generates the service that the tests look into; the program itself knows no service beforehand.

fn main() -> Result<(), rpc_build::CompileError> {
    rpc_build::compile(&["zoo.proto"], &["tests/proto/"])
}
