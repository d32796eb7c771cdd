//! [`Watchers`]: the streams of those who watch quotes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rpc::{Code, RpcContext, RpcError, StreamSender};

use crate::quotes::Quote;

/// Streams of quotes, each of one symbol. As many as there are calls; see `Limits` of `rpc`.
/// A clone is a handle on the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchers {
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    next_id: u64,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    symbol: String,
    stream: StreamSender<Quote>,
}

impl Watchers {
    /// Adds a stream until nobody wants it any more.
    pub(crate) fn add(&self, context: &RpcContext, symbol: String, stream: StreamSender<Quote>) {
        let id = {
            let mut list = self.lock();
            list.next_id += 1;
            let id = list.next_id;
            list.watchers.push(Watcher { id, symbol, stream });
            id
        };
        let all = self.clone();
        context.on_cancel(move || {
            for stream in all.take(|watcher| watcher.id == id) {
                stream.fail(RpcError::new(Code::Cancelled, "nobody watches any more"));
            }
        });
    }

    /// Tells those who watch its symbol, and waits for none of them.
    pub(crate) fn tell(&self, quote: &Quote) {
        let is_too_slow = |watcher: &mut Watcher| {
            watcher.symbol == quote.symbol && watcher.stream.try_send(quote).is_err()
        };
        for stream in self.take(is_too_slow) {
            let text = "quotes came faster than you took them";
            stream.fail(RpcError::new(Code::ResourceExhausted, text));
        }
    }

    /// Ends all streams.
    pub(crate) fn end_all(&self) {
        for stream in self.take(|_| true) {
            stream.finish();
        }
    }

    fn take(&self, which: impl FnMut(&mut Watcher) -> bool) -> Vec<StreamSender<Quote>> {
        let mut list = self.lock();
        let taken = list.watchers.extract_if(.., which);
        taken.map(|watcher| watcher.stream).collect()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
