//! Generates messages, traits and stubs from the files in `proto/`.

fn main() -> Result<(), rpc_build::CompileError> {
    rpc_build::compile(&["hello.proto", "quotes.proto"], &["proto/"])
}
