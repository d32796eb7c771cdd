//! The tutorial's first server.

use std::sync::Arc;

use rpc::{Done, ProviderError, ProviderOptions, RpcContext, RpcProvider};
use tutorial::hello::{Greeter, GreeterService, Greeting, Name};

struct English;

impl Greeter for English {
    fn greet(&self, _context: RpcContext, args: Name, done: Done<Greeting>) {
        done.run(Greeting {
            text: format!("hello {}", args.name),
        });
    }
}

fn main() -> Result<(), ProviderError> {
    let mut provider = RpcProvider::new(ProviderOptions::default());
    provider.notify_service(GreeterService::new(Arc::new(English)))?;
    provider.run("127.0.0.1:7070") // until the process ends
}
