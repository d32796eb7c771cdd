//! The arithmetic of majorities (§5.2, §5.4.2).

/// How many of `voters` nodes are a majority: more than half.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The greatest value that a majority has reached, given one value per voter. Sorts its input.
///
/// # Panics
/// Without voters: [`Config::validate`](super::Config::validate) refuses those.
pub(super) fn reached_by_majority<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[majority(values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Failure 48: even sizes and one voter.
    #[test]
    fn a_majority_is_more_than_half() {
        let sizes: Vec<usize> = (1..=9).map(majority).collect();
        assert_eq!(sizes, [1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }

    /// Compared with counting, for every assignment of small values to up to five voters.
    #[test]
    fn the_reached_value_is_the_greatest_that_a_majority_has() {
        for voters in 1..=5_u32 {
            for code in 0..4_u32.pow(voters) {
                let mut values: Vec<u32> = (0..voters).map(|n| code / 4_u32.pow(n) % 4).collect();
                let enough = majority(values.len());
                let counted = (0..4)
                    .rev()
                    .find(|goal| values.iter().filter(|value| *value >= goal).count() >= enough);
                assert_eq!(
                    Some(reached_by_majority(&mut values)),
                    counted,
                    "{values:?}"
                );
            }
        }
    }

    /// Failure 47.
    #[test]
    fn a_voter_that_is_ahead_already_moves_nothing() {
        assert_eq!(reached_by_majority(&mut [5, 5, 9]), 5);
        assert_eq!(reached_by_majority(&mut [5, 5, 12]), 5);
        assert_eq!(reached_by_majority(&mut [5, 6, 12]), 6);
    }
}
