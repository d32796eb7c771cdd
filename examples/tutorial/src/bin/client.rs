//! Calls `Quotes`. The server's address is in `QUOTES_ADDR`, by default `127.0.0.1:7070`.
//!
//! ```text
//! client get SYMBOL        client set SYMBOL CENTS [USER]
//! client audit PREFIX [TIMEOUT_MS]
//! ```

#![expect(clippy::print_stdout, reason = "a command talks to its user")]
#![expect(clippy::print_stderr, reason = "a command talks to its user")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use rpc::{ChannelOptions, RetryPolicy, RpcChannel, RpcController, RpcError};
use tutorial::quotes::{Quote, QuotesStub, Symbol};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let quotes = match connect() {
        Ok(quotes) => quotes,
        Err(error) => {
            eprintln!("QUOTES_ADDR: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = match args[..] {
        ["get", symbol] => get(&quotes, symbol),
        ["set", symbol, cents] => set(&quotes, symbol, cents, None),
        ["set", symbol, cents, user] => set(&quotes, symbol, cents, Some(user)),
        ["audit", prefix] => audit(&quotes, prefix, "5000"),
        ["audit", prefix, timeout_ms] => audit(&quotes, prefix, timeout_ms),
        _ => {
            eprintln!(
                "usage: client get SYMBOL | set SYMBOL CENTS [USER] | audit PREFIX [TIMEOUT_MS]"
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn connect() -> Result<QuotesStub, Box<dyn Error>> {
    let addr = std::env::var("QUOTES_ADDR").unwrap_or_else(|_| "127.0.0.1:7070".to_owned());
    let options = ChannelOptions {
        default_timeout: Duration::from_secs(2),
        retry: Some(RetryPolicy::default()),
        ..ChannelOptions::default()
    };
    Ok(QuotesStub::new(RpcChannel::with_options(
        addr.parse()?,
        options,
    )))
}

fn get(quotes: &QuotesStub, symbol: &str) -> Result<String, Box<dyn Error>> {
    let mut controller = RpcController::new();
    controller.set_idempotent(true); // reading twice does no harm: the channel may try again
    let symbol = Symbol {
        name: symbol.to_owned(),
    };
    let quote = quotes.get(&mut controller, &symbol)?;
    Ok(format!("{} {}", quote.symbol, quote.cents))
}

fn set(
    quotes: &QuotesStub,
    symbol: &str,
    cents: &str,
    user: Option<&str>,
) -> Result<String, Box<dyn Error>> {
    let mut controller = RpcController::new();
    if let Some(user) = user {
        controller.set_metadata("user", user.to_owned());
    }
    let quote = Quote {
        symbol: symbol.to_owned(),
        cents: cents.parse()?,
    };
    match quotes.set(&mut controller, &quote) {
        Ok(quote) => Ok(format!("{} {}", quote.symbol, quote.cents)),
        Err(error) => Err(explained(&error).into()),
    }
}

fn explained(error: &RpcError) -> String {
    let effect = if error.may_have_executed() {
        "it may have taken effect"
    } else {
        "it had no effect"
    };
    format!("{}: {}; {effect}", error.code(), error.text())
}

fn audit(quotes: &QuotesStub, prefix: &str, timeout_ms: &str) -> Result<String, Box<dyn Error>> {
    let mut controller = RpcController::with_timeout(Duration::from_millis(timeout_ms.parse()?));
    let prefix = Symbol {
        name: prefix.to_owned(),
    };
    Ok(quotes.audit(&mut controller, &prefix)?.text)
}
