//! The tutorial's first server. Usage: `hello_server ADDR`.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::error::Error;
use std::sync::Arc;

use rpc::{Done, ProviderOptions, RpcContext, RpcProvider};
use tutorial::hello::{Greeter, GreeterService, Greeting, Name};

struct English;

impl Greeter for English {
    fn greet(&self, _context: RpcContext, args: Name, done: Done<Greeting>) {
        let text = format!("hello {}", args.name);
        done.run(Greeting { text });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).ok_or("usage: hello_server ADDR")?;
    let mut provider = RpcProvider::new(ProviderOptions::default());
    provider.notify_service(GreeterService::new(Arc::new(English)))?;
    let handle = provider.start(addr)?;
    println!("serving Greeter at {}", handle.local_addr());
    loop {
        std::thread::park(); // it serves on threads of its own
    }
}
