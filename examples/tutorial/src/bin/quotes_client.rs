//! Calls `Quotes`.
//!
//! ```text
//! quotes_client ADDR get SYMBOL
//! quotes_client ADDR set SYMBOL CENTS
//! quotes_client ADDR audit PREFIX [TIMEOUT_MS]
//! quotes_client ADDR watch SYMBOL COUNT
//! ```

#![expect(clippy::print_stdout, reason = "a command talks to its user")]

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rpc::interceptors::TokenCredentials;
use rpc::{ChannelOptions, RetryPolicy, RpcChannel, RpcController, RpcError, TlsClient};
use tutorial::quotes::{Quote, QuotesStub, Symbol};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let Err(error) = run(&args) {
        println!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [addr, command @ ..] = args else {
        return Err("usage: quotes_client ADDR get|set|audit|watch ...".into());
    };
    let quotes = QuotesStub::new(RpcChannel::with_options(addr.parse()?, options()?));
    match *command {
        ["get", symbol] => get(&quotes, symbol),
        ["set", symbol, cents] => set(&quotes, symbol, cents.parse()?),
        ["audit", prefix] => audit(&quotes, prefix, 5_000),
        ["audit", prefix, timeout_ms] => audit(&quotes, prefix, timeout_ms.parse()?),
        ["watch", symbol, count] => watch(&quotes, symbol, count.parse()?),
        _ => Err(format!("no such command: {command:?}").into()),
    }
}

fn options() -> Result<ChannelOptions, Box<dyn Error>> {
    let mut options = ChannelOptions {
        default_timeout: Duration::from_secs(2), // for calls that do not say
        retry: Some(RetryPolicy::default()),
        ..ChannelOptions::default()
    };
    if let Ok(token) = env::var("TOKEN") {
        let credentials = TokenCredentials::new(token)?;
        options.interceptors.push(Arc::new(credentials));
    }
    if let Ok(roots) = env::var("TLS_ROOTS") {
        options.tls = Some(TlsClient::new(roots, "localhost")?);
    }
    Ok(options)
}

fn get(quotes: &QuotesStub, symbol: &str) -> Result<(), Box<dyn Error>> {
    let mut controller = RpcController::new();
    controller.set_idempotent(true); // asking twice does no harm, so the channel may
    let name = symbol.to_owned();
    let quote = quotes.get(&mut controller, &Symbol { name })?;
    println!("{} costs {} cents", quote.symbol, quote.cents);
    Ok(())
}

fn set(quotes: &QuotesStub, symbol: &str, cents: u64) -> Result<(), Box<dyn Error>> {
    let symbol = symbol.to_owned();
    match quotes.set(&mut RpcController::new(), &Quote { symbol, cents }) {
        Ok(quote) => println!("{} now costs {} cents", quote.symbol, quote.cents),
        Err(error) => return Err(explained(&error).into()),
    }
    Ok(())
}

fn explained(error: &RpcError) -> String {
    let effect = if error.may_have_executed() {
        "may have taken effect"
    } else {
        "had no effect" // whatever the call does, it may be made again
    };
    format!("{} ({}): the call {effect}", error.code(), error.text())
}

fn audit(quotes: &QuotesStub, prefix: &str, timeout_ms: u64) -> Result<(), Box<dyn Error>> {
    let mut controller = RpcController::with_timeout(Duration::from_millis(timeout_ms));
    let name = prefix.to_owned();
    let report = quotes.audit(&mut controller, &Symbol { name })?;
    println!("{}", report.text);
    Ok(())
}

fn watch(quotes: &QuotesStub, symbol: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let name = symbol.to_owned();
    let stream = quotes.watch(&mut RpcController::new(), &Symbol { name })?;
    for quote in stream.take(count) {
        let quote = quote?; // the stream may have failed
        println!("{} costs {} cents", quote.symbol, quote.cents);
    }
    Ok(()) // the stream is dropped: the server hears that nobody watches any more
}
