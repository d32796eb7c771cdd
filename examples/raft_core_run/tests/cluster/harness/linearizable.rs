//! Whether a history of Gets, Puts and Appends can be explained by one register a key.
//!
//! Each write has a token of its own, and a value is the tokens of the last Put and of the Appends since.
//! So a Get tells by which writes, and in which order, its value came about. That turns the question,
//! which takes a search of exponential time and memory otherwise (the more writes of unknown outcome,
//! the worse), into one of sorting (Gibbons and Korach, *Testing Shared Memories*, 1997).
//!
//! ```text
//! Gets that saw 1, 12, 1, 7, 78:        Put 1, Get, Get, Append 2, Get  │  Put 7, Get, Append 8, Get
//! Put 5 and Append 6, which none saw:   Put 5  │  Append 6
//! ```
//!
//! A *block* is a Put, the Appends that were seen behind it, and the Gets that saw them: no other write
//! can have come in between. A write that nobody saw is a block by itself, which fits between any two
//! others, and at the very end: there is room for one of unknown outcome at least there. What was seen
//! before any Put is the first block of all. Two things must hold, for each key by itself (Herlihy and Wing, §3.3):
//!
//! 1. Within a block, nothing ended before something that comes earlier in it began.
//! 2. No two blocks must each precede the other. One must precede another if any operation of the one
//!    ended before any of the other began. (Two are enough: if many precede each other in a circle, each
//!    of them has something that ended before the latest call of all, so precedes the block of that
//!    call, which in turn precedes one of them.)

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One operation as its caller saw it.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) what: What,
    pub(crate) called: Duration,
    /// `None`: nobody knows whether it took effect.
    pub(crate) returned: Option<Duration>,
}

/// No two writes have the same token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// And the tokens that it returned; none before the first write.
    Get(Vec<u64>),
    Put(u64),
    Append(u64),
}

/// A history that no order of its operations explains.
#[derive(Debug)]
pub(crate) struct Violation {
    what: String,
    /// Those that contradict each other.
    operations: Vec<Operation>,
}

/// Whether there is an order that explains the operations of each key.
pub(crate) fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut of_keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        of_keys.entry(&operation.key).or_default().push(operation);
    }
    of_keys.values().try_for_each(|operations| {
        let mut blocks = blocks_of(operations)?;
        blocks.iter_mut().try_for_each(Block::check)?;
        check_order(blocks)
    })
}

/// Operations between which there is no other.
#[derive(Default)]
struct Block<'a> {
    /// Each with its rank: the second write is of rank 4, the Gets that saw it last are of rank 5.
    operations: Vec<(usize, &'a Operation)>,
    /// It begins with a key without a value, as everything does.
    is_first: bool,
}

/// The longest value that was seen with this beginning, and a Get that saw it.
struct Chain<'a> {
    tokens: &'a [u64],
    seen_by: &'a Operation,
}

fn blocks_of<'a>(operations: &[&'a Operation]) -> Result<Vec<Block<'a>>, Violation> {
    let writes = writes_of(operations);
    let mut chains: BTreeMap<Option<u64>, Chain<'a>> = BTreeMap::new();
    let mut gets: Vec<(Option<u64>, usize, &Operation)> = Vec::new();
    for &get in operations {
        let What::Get(tokens) = &get.what else {
            continue;
        };
        let put = put_of(get, tokens, &writes)?;
        gets.push((put, tokens.len(), get));
        let seen_by = get;
        let chain = chains.entry(put).or_insert(Chain { tokens, seen_by });
        if !tokens.starts_with(chain.tokens) && !chain.tokens.starts_with(tokens) {
            let both = [chain.seen_by, get];
            return Err(violation("neither value comes of the other", &both));
        }
        if tokens.len() > chain.tokens.len() {
            *chain = Chain { tokens, seen_by };
        }
    }

    let mut unseen = writes.clone();
    let mut blocks: BTreeMap<Option<u64>, Block<'a>> = BTreeMap::new();
    for (put, Chain { tokens, seen_by }) in chains {
        let block = blocks.entry(put).or_default();
        block.is_first = put.is_none();
        for (number, token) in (1..).zip(tokens) {
            let Some(write) = unseen.remove(token) else {
                return Err(violation("a write took effect twice", &[seen_by]));
            };
            block.operations.push((2 * number, write));
        }
    }
    for (put, seen, get) in gets {
        let block = blocks.entry(put).or_default();
        block.operations.push((2 * seen + 1, get));
    }
    let alone = unseen.into_values().map(|write| Block {
        operations: vec![(0, write)],
        is_first: false,
    });
    Ok(blocks.into_values().chain(alone).collect())
}

fn writes_of<'a>(operations: &[&'a Operation]) -> BTreeMap<u64, &'a Operation> {
    let mut writes = BTreeMap::new();
    for &operation in operations {
        if let What::Put(token) | What::Append(token) = operation.what {
            let other = writes.insert(token, operation);
            assert!(other.is_none(), "two writes have the token {token}");
        }
    }
    writes
}

/// The Put that a value goes back to; none if there were but Appends, or nothing at all.
fn put_of(
    get: &Operation,
    tokens: &[u64],
    writes: &BTreeMap<u64, &Operation>,
) -> Result<Option<u64>, Violation> {
    let mut put = None;
    for (place, token) in tokens.iter().enumerate() {
        let Some(write) = writes.get(token) else {
            let what = format!("{token} was written by nobody, or was certainly not done");
            return Err(violation(&what, &[get]));
        };
        if matches!(write.what, What::Put(_)) {
            if place > 0 {
                return Err(violation("a Put leaves nothing before it", &[*write, get]));
            }
            put = Some(*token);
        }
    }
    Ok(put)
}

impl Block<'_> {
    /// Rule 1. Leaves the operations in order.
    fn check(&mut self) -> Result<(), Violation> {
        self.operations.sort_by_key(|&(rank, _)| rank);
        let mut called_last: Option<&Operation> = None;
        for equals in self.operations.chunk_by(|one, other| one.0 == other.0) {
            for &(_, operation) in equals {
                if let Some(earlier) = called_last
                    && operation.end() < earlier.called
                {
                    let what = "the one that ended first comes of the other";
                    return Err(violation(what, &[operation, earlier]));
                }
            }
            let equals = equals.iter().map(|&(_, operation)| operation);
            called_last = equals.chain(called_last).max_by_key(|it| it.called);
        }
        Ok(())
    }

    fn ended_first(&self) -> &Operation {
        let operations = self.operations.iter().map(|&(_, operation)| operation);
        let first = operations.min_by_key(|operation| operation.end());
        first.expect("a block is made for an operation")
    }

    fn called_last(&self) -> &Operation {
        let operations = self.operations.iter().map(|&(_, operation)| operation);
        let last = operations.max_by_key(|operation| operation.called);
        last.expect("a block is made for an operation")
    }
}

/// A block as far as its place among the others goes.
struct Extent<'a> {
    /// When something of it first ended; `None`: before everything.
    end: Option<Duration>,
    /// When something of it was last called.
    call: Duration,
    block: Block<'a>,
}

/// Rule 2.
fn check_order(blocks: Vec<Block<'_>>) -> Result<(), Violation> {
    let extents = blocks.into_iter().map(|block| Extent {
        end: (!block.is_first).then(|| block.ended_first().end()),
        call: block.called_last().called,
        block,
    });
    let mut extents: Vec<Extent<'_>> = extents.collect();
    extents.sort_by_key(|extent| extent.end);
    let precedes = |one: &Extent<'_>, other: &Extent<'_>| one.end < Some(other.call);

    // Of two blocks that precede each other, let C be the one that first ended later. Then the other
    // one's last call is after that end: so it is if the latest call so far is. Is that another
    // block's, the two of them precede each other as well, and that was found before.
    let mut latest: Option<&Extent<'_>> = None;
    for extent in &extents {
        if let Some(latest) = latest
            && precedes(latest, extent)
            && precedes(extent, latest)
        {
            let [one, other] = [&latest.block, &extent.block];
            let all = [
                one.ended_first(),
                other.called_last(),
                other.ended_first(),
                one.called_last(),
            ];
            let what = "what the first and the last belong to is before the others, and after them";
            return Err(violation(what, &all));
        }
        if latest.is_none_or(|latest| latest.call < extent.call) {
            latest = Some(extent);
        }
    }
    Ok(())
}

fn violation(what: &str, operations: &[&Operation]) -> Violation {
    Violation {
        what: what.to_owned(),
        operations: operations.iter().map(|&it| it.clone()).collect(),
    }
}

impl Operation {
    /// A write of unknown outcome may take effect at any time after its call.
    fn end(&self) -> Duration {
        self.returned.unwrap_or(Duration::MAX)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, operations } = self;
        writeln!(f, "no order explains what clients saw: {what}:")?;
        operations
            .iter()
            .try_for_each(|operation| writeln!(f, "  {operation}"))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            key,
            what,
            called,
            returned,
        } = self;
        write!(f, "{:>10} us .. ", called.as_micros())?;
        match returned {
            Some(returned) => write!(f, "{:>10} us", returned.as_micros())?,
            None => write!(f, "   unknown   ")?,
        }
        write!(f, "  client {client}  {key}  {what:?}")
    }
}

#[path = "linearizable_test.rs"]
mod tests;
