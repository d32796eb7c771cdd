//! How long to wait before asking again.

use std::time::Duration;

/// Doubling pauses with jitter: without it, all callers that lost the same leader in the same
/// instant would come back in the same instant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub min: Duration,
    /// No pause is longer. It also bounds what a caller adds to the time the cluster itself takes
    /// to elect: keep it well under an election timeout.
    pub max: Duration,
}

impl Default for Backoff {
    /// 5 ms to 200 ms: a new leader (elected 300 to 500 ms after the old one died, by default) is
    /// noticed soon, and a cluster that is down is asked about five times a second by each call.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(5),
            max: Duration::from_millis(200),
        }
    }
}

impl Backoff {
    /// The pause before try `number` (0: the first repetition), between half and all of its step.
    pub(super) fn delay(self, number: u32, random: &mut fastrand::Rng) -> Duration {
        let doubled = self
            .min
            .saturating_mul(1_u32.checked_shl(number).unwrap_or(u32::MAX));
        let step = doubled.min(self.max);
        step.mul_f64(0.5 + random.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_keep_their_jitter() {
        let backoff = Backoff::default();
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..200 {
            let step = Duration::from_millis(5 << number.min(6)).min(backoff.max);
            let delay = backoff.delay(number, &mut random);
            assert!(
                delay >= step / 2 && delay <= step,
                "try {number}: {delay:?} of {step:?}"
            );
        }
        let two = [backoff.delay(9, &mut random), backoff.delay(9, &mut random)];
        assert_ne!(two[0], two[1], "without jitter all callers return at once");
    }
}
