//! Serves `Quotes` until Ctrl+C. Usage: `quotes_server ADDR [UPSTREAM]`.

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rpc::interceptors::{AccessLog, TokenAuth};
use rpc::{ProviderOptions, RpcChannel, RpcProvider, TlsServer, WorkerPoolOptions};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tutorial::quotes::{QuotesService, QuotesStub};
use tutorial::{Board, OnlyOpsSet};

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut args = env::args().skip(1);
    let addr = args.next().ok_or("usage: quotes_server ADDR [UPSTREAM]")?;
    let upstream = match args.next() {
        Some(addr) => Some(QuotesStub::new(RpcChannel::new(addr.parse()?))),
        None => None,
    };
    let mut signals = Signals::new([SIGINT, SIGTERM])?;

    let mut provider = RpcProvider::new(options()?);
    let board = Arc::new(Board::new(upstream));
    let quotes = QuotesService::new(Arc::clone(&board));
    let workers = WorkerPoolOptions {
        threads: 2,
        queue: 16,
    };
    provider.notify_blocking_methods(quotes, &["Audit"], workers)?;
    provider.notify_builtin_services()?; // Health and Reflection
    let mut handle = provider.start(addr)?;
    println!("serving Quotes at {}", handle.local_addr());

    signals.forever().next();
    board.end_watches();
    if handle.drain(Duration::from_secs(10)) {
        println!("every call was answered");
    }
    Ok(())
}

fn options() -> Result<ProviderOptions, Box<dyn Error>> {
    let mut options = ProviderOptions {
        status_pages: true, // only friends can reach this port
        ..ProviderOptions::default()
    };
    options.interceptors.push(Arc::new(AccessLog));
    if let (Ok(ops), Ok(reader)) = (env::var("OPS_TOKEN"), env::var("READER_TOKEN")) {
        let tokens = TokenAuth::new([("ops", ops), ("reader", reader)])?;
        options
            .interceptors
            .push(Arc::new(tokens.exempt_service("Health")));
        options.interceptors.push(Arc::new(OnlyOpsSet));
    }
    if let (Ok(certificates), Ok(key)) = (env::var("TLS_CERT"), env::var("TLS_KEY")) {
        options.tls = Some(TlsServer::new(certificates, key)?);
    }
    Ok(options)
}
