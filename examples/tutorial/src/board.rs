//! [`Board`]: the service `Quotes`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rpc::interceptors::TokenAuth;
use rpc::{Code, Done, RpcContext, RpcController, RpcError, ServerInterceptor};

use crate::quotes::{Quote, Quotes, QuotesStub, Report, Symbol};

/// Keeps quotes in memory, and may ask another server for those that it does not know.
#[derive(Debug, Default)]
pub struct Board {
    cents: Mutex<BTreeMap<String, u64>>,
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

    fn find(&self, symbol: &str) -> Option<Quote> {
        let cents = *self.lock().get(symbol)?;
        Some(Quote {
            symbol: symbol.to_owned(),
            cents,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.cents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quotes for Board {
    fn get(&self, context: RpcContext, args: Symbol, done: Done<Quote>) {
        if let Some(quote) = self.find(&args.name) {
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
        self.lock().insert(args.symbol.clone(), args.cents);
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
