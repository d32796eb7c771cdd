//! Serves `Quotes` until Ctrl+C. Usage: `server [ADDR [UPSTREAM]]`.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rpc::{ProviderOptions, RpcChannel, RpcProvider, WorkerPoolOptions};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tutorial::quotes::{QuotesService, QuotesStub};
use tutorial::{Board, SaysWho};

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7070".to_owned());
    let upstream = match args.next() {
        Some(addr) => Some(QuotesStub::new(RpcChannel::new(addr.parse()?))),
        None => None,
    };
    let mut signals = Signals::new([SIGINT, SIGTERM])?;

    let mut provider = RpcProvider::new(ProviderOptions {
        interceptors: vec![Arc::new(SaysWho)],
        ..ProviderOptions::default()
    });
    let quotes = QuotesService::new(Arc::new(Board::new(upstream)));
    let workers = WorkerPoolOptions {
        threads: 2,
        queue: 16,
    };
    provider.notify_blocking_methods(quotes, &["Audit"], workers)?;
    let mut handle = provider.start(addr)?;
    println!("serving Quotes at {}", handle.local_addr());

    signals.forever().next();
    if handle.drain(Duration::from_secs(10)) {
        println!("every call was answered");
    }
    Ok(())
}
