//! The tutorial's first client.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use rpc::{RpcChannel, RpcController};
use tutorial::hello::{GreeterStub, Name};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let greeter = GreeterStub::new(RpcChannel::new("127.0.0.1:7070".parse()?));
    let name = Name {
        name: "world".into(),
    };
    let greeting = greeter.greet(&mut RpcController::new(), &name)?;
    println!("{}", greeting.text);
    Ok(())
}
