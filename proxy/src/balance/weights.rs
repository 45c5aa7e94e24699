//! Weighted choice: by chance and in turn.

/// The weights of a cluster's members or of a route's backends, ready to draw from.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    /// Cumulative; `None` when all are equal and above 0, the usual case.
    cumulative: Option<Vec<u64>>,
    /// Each scaled to 0..=STRIDE, for turns.
    scaled: Vec<u64>,
}

const STRIDE: u64 = 1 << 16;
/// How far apart neighbours of equal weight begin, so that they do not all come in one run.
const OFFSET: u64 = STRIDE / 2;

impl Weights {
    pub(crate) fn new(weights: &[u32]) -> Self {
        let largest = weights.iter().copied().max().unwrap_or(0);
        let equal = largest > 0 && weights.iter().all(|w| *w == largest);
        let cumulative = (!equal).then(|| {
            weights
                .iter()
                .scan(0, |sum, weight| {
                    *sum += u64::from(*weight);
                    Some(*sum)
                })
                .collect()
        });
        let scale = |w: u32| if w == 0 { 0 } else { (u64::from(w) * STRIDE / u64::from(largest)).max(1) };
        Self { cumulative, scaled: weights.iter().map(|w| scale(*w)).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.scaled.len()
    }

    /// Whether member `i` may be chosen at all.
    pub(crate) fn is_in(&self, i: usize) -> bool {
        self.scaled[i] > 0
    }

    /// What `in_flight` calls are to member `i`: more, the smaller its weight is beside the heaviest.
    pub(crate) fn burden(&self, i: usize, in_flight: u32) -> f64 {
        f64::from(in_flight) * STRIDE as f64 / self.scaled[i].max(1) as f64
    }

    /// One member by chance; `None` when there is none with a weight.
    pub(crate) fn draw(&self, random: u64) -> Option<usize> {
        let Some(cumulative) = &self.cumulative else {
            return Some(below(random, self.len() as u64) as usize);
        };
        let total = *cumulative.last()?;
        let point = (total > 0).then(|| below(random, total))?;
        Some(cumulative.partition_point(|sum| *sum <= point))
    }

    /// The member whose turn it is, advancing `turn`: static stride scheduling, as gRPC's
    /// weighted_round_robin does it (gRFC A58): member i takes part in a round in proportion to its weight.
    pub(crate) fn turn(&self, turn: &mut u64) -> Option<usize> {
        let n = self.len() as u64;
        if self.cumulative.is_none() {
            *turn = turn.wrapping_add(1);
            return Some((*turn % n) as usize);
        }
        self.cumulative.as_ref()?.last().filter(|total| **total > 0)?;
        loop {
            *turn = turn.wrapping_add(1);
            let (i, round) = ((*turn % n) as usize, *turn / n);
            let position = (self.scaled[i].wrapping_mul(round).wrapping_add(i as u64 * OFFSET)) % STRIDE;
            // The heaviest member is never passed over, so the loop ends within one round.
            if position + self.scaled[i] >= STRIDE {
                return Some(i);
            }
        }
    }
}

/// A number below `bound`, without the bias and the cost of a remainder (Lemire's multiplication).
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32], mut choose: impl FnMut(&Weights) -> usize, rounds: u32) -> Vec<f64> {
        let table = Weights::new(weights);
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..rounds {
            counts[choose(&table)] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(rounds)).collect()
    }

    #[test]
    fn draws_and_turns_follow_the_weights() {
        for weights in [&[1, 1, 1][..], &[90, 10], &[1, 0, 3], &[5], &[1_000_000, 1, 500_000]] {
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let mut rng = fastrand::Rng::with_seed(7);
            let mut turn = 0;
            let drawn = shares(weights, |t| t.draw(rng.u64(..)).unwrap(), 100_000);
            let turned = shares(weights, |t| t.turn(&mut turn).unwrap(), 100_000);
            for (i, weight) in weights.iter().enumerate() {
                let share = f64::from(*weight) / total;
                assert!((drawn[i] - share).abs() < 0.01, "{weights:?}: {drawn:?}");
                assert!((turned[i] - share).abs() < 0.001, "{weights:?}: {turned:?}");
            }
        }
    }

    #[test]
    fn equal_members_take_strict_turns() {
        let table = Weights::new(&[7, 7, 7]);
        let mut turn = 0;
        let order: Vec<_> = (0..6).map(|_| table.turn(&mut turn).unwrap()).collect();
        assert_eq!(order, [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn nobody_is_chosen_among_none() {
        for weights in [&[][..], &[0, 0]] {
            let table = Weights::new(weights);
            assert_eq!(table.draw(u64::MAX), None);
            assert_eq!(table.turn(&mut 0), None);
        }
    }
}
