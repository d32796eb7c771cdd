//! What is written: keys and values that tell where they come from.

use bytes::Bytes;

/// One run of this program. Its random number is in each value, so that a value left by another
/// run is not taken for one of this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) id: u32,
    /// Values are padded to this many bytes.
    pub(crate) value_size: usize,
    /// A key for each round, instead of one for each client.
    pub(crate) distinct_keys: bool,
}

impl Run {
    /// `x` for client 0, as in the original; `x1`, `x2`... for the others. With distinct keys the
    /// run and the round follow: `x1/5bd1e995/17`.
    pub(crate) fn key(&self, client: u32, round: u64) -> Bytes {
        let own = if client == 0 {
            "x".to_owned()
        } else {
            format!("x{client}")
        };
        if self.distinct_keys {
            format!("{own}/{:08x}/{round}", self.id).into()
        } else {
            own.into()
        }
    }

    /// `0000000017-5bd1e995-1`: round, run, client; then dots up to the size that was asked for.
    pub(crate) fn value(&self, client: u32, round: u64) -> Bytes {
        let own = format!("{round:010}-{:08x}-{client}", self.id);
        format!("{own:.<size$}", size = self.value_size).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_round_run_and_client_and_are_padded() {
        let run = Run {
            id: 0x5bd1_e995,
            value_size: 25,
            distinct_keys: false,
        };
        assert_eq!(run.value(1, 17), "0000000017-5bd1e995-1....");
        assert_eq!(run.key(0, 17), "x");
        assert_eq!(run.key(1, 17), "x1");
        let run = Run {
            distinct_keys: true,
            value_size: 0,
            ..run
        };
        assert_eq!(run.key(1, 17), "x1/5bd1e995/17");
        assert_eq!(run.value(1, 17).len(), 21);
    }
}
