//! The tutorial's first client. Usage: `hello_client ADDR NAME`.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::error::Error;

use rpc::{RpcChannel, RpcController};
use tutorial::hello::{GreeterStub, Name};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().ok_or("usage: hello_client ADDR NAME")?;
    let name = args.next().ok_or("usage: hello_client ADDR NAME")?;

    let greeter = GreeterStub::new(RpcChannel::new(addr.parse()?));
    let greeting = greeter.greet(&mut RpcController::new(), &Name { name })?;
    println!("{}", greeting.text);
    Ok(())
}
