//! [`Board`]: the service `Quotes`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rpc::interceptors::TokenAuth;
use rpc::{Code, Done, RpcContext, RpcController, RpcError, ServerInterceptor, StreamSender};

use crate::quotes::{Quote, Quotes, QuotesStub, Report, Symbol};
use crate::watchers::Watchers;

/// Keeps quotes in memory, and may ask another server for those that it does not know.
#[derive(Debug, Default)]
pub struct Board {
    cents: Mutex<BTreeMap<String, u64>>,
    watchers: Watchers,
    upstream: Option<QuotesStub>,
}

impl Board {
    /// A board without quotes.
    #[must_use]
    pub fn new(upstream: Option<QuotesStub>) -> Board {
        Board {
            upstream,
            ..Board::default()
        }
    }

    /// Ends the streams of those who watch: they would go on for ever.
    pub fn end_watches(&self) {
        self.watchers.end_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.cents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quote_of(cents: &BTreeMap<String, u64>, symbol: &str) -> Option<Quote> {
    let cents = *cents.get(symbol)?;
    let symbol = symbol.to_owned();
    Some(Quote { symbol, cents })
}

impl Quotes for Board {
    fn get(&self, context: RpcContext, args: Symbol, done: Done<Quote>) {
        let known = quote_of(&self.lock(), &args.name);
        if let Some(quote) = known {
            return done.run(quote);
        }
        let Some(upstream) = &self.upstream else {
            let text = format!("no quote for {:?}", args.name);
            return done.fail(RpcError::new(Code::NotFound, text));
        };
        // Ends when our own caller's deadline does. This handler returns at once.
        let controller = RpcController::within(&context);
        upstream.get_async(controller, &args, move |result| match result {
            Ok(quote) => done.run(quote),
            Err(error) => done.fail(error),
        });
    }

    fn set(&self, _context: RpcContext, args: Quote, done: Done<Quote>) {
        if args.symbol.is_empty() {
            // Refused: nothing has happened, so the caller may safely ask again.
            return done.refuse(RpcError::new(
                Code::InvalidArgument,
                "a quote needs a symbol",
            ));
        }
        {
            let mut cents = self.lock(); // until all are told, so that they see the same order
            cents.insert(args.symbol.clone(), args.cents);
            self.watchers.tell(&args);
        }
        done.run(args);
    }

    /// Blocks, so the server gives it threads of its own.
    fn audit(&self, context: RpcContext, args: Symbol, done: Done<Report>) {
        let quotes = self.lock().clone();
        let mut sum = 0;
        for (symbol, cents) in &quotes {
            if context.is_canceled() {
                let text = "nobody waits for the report any more";
                return done.fail(RpcError::new(Code::Cancelled, text));
            }
            std::thread::sleep(Duration::from_millis(100)); // real work would be here
            sum += if symbol.starts_with(&args.name) {
                *cents
            } else {
                0
            };
        }
        done.run(Report {
            text: format!("{} quotes, {sum} cents", quotes.len()),
        });
    }

    fn watch(&self, context: RpcContext, args: Symbol, stream: StreamSender<Quote>) {
        let cents = self.lock(); // nothing is set between the first quote and the next
        if let Some(quote) = quote_of(&cents, &args.name)
            && let Err(error) = stream.send(&quote)
        {
            return stream.fail(RpcError::new(Code::Cancelled, error.to_string()));
        }
        self.watchers.add(&context, args.name, stream);
    }
}

/// Lets nobody but `ops` set quotes. Its place is after [`TokenAuth`], which says who it is.
#[derive(Debug)]
pub struct OnlyOpsSet;

impl ServerInterceptor for OnlyOpsSet {
    fn before(&self, context: &mut RpcContext) -> Result<(), RpcError> {
        let caller = context
            .metadata()
            .get_str(TokenAuth::CALLER)
            .unwrap_or("nobody");
        if context.method() == "Set" && caller != "ops" {
            let text = format!("{caller} may not set quotes");
            return Err(RpcError::new(Code::PermissionDenied, text));
        }
        Ok(())
    }
}
