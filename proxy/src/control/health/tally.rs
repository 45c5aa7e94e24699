//! When an endpoint counts as healthy: results of checks in a row against the two thresholds. Pure.
//!
//! ```text
//! new --first result--> healthy --unhealthy_threshold failures in a row--> unhealthy
//!                   \-> unhealthy --healthy_threshold successes in a row--> healthy
//! ```
//!
//! As in Envoy, the first result counts at once, both ways: nothing is known yet that it would have to outweigh.
//! Until then a new endpoint is used.

use config::health::Health;

/// What the checks of one endpoint came to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// `None`: no check has come to an end.
    healthy: Option<bool>,
    /// Results in a row that speak against it.
    against: u32,
}

impl Tally {
    /// Takes in a result; `Some` where the endpoint's state is another from now on, or known for the first time.
    pub(crate) fn note(&mut self, success: bool, thresholds: &Health) -> Option<bool> {
        let Some(healthy) = self.healthy else {
            self.healthy = Some(success);
            return self.healthy;
        };
        if healthy == success {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let threshold = if healthy { thresholds.unhealthy_threshold } else { thresholds.healthy_threshold };
        if self.against < threshold {
            return None;
        }
        *self = Self { healthy: Some(success), against: 0 };
        self.healthy
    }

    /// Something else is asked from now on: what was found stays, what was about to change it does not count.
    pub(crate) fn ask_anew(&mut self) {
        self.against = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use config::health::Check;

    use super::*;

    const YES: bool = true;
    const NO: bool = false;

    fn thresholds(unhealthy: u32, healthy: u32) -> Health {
        Health {
            check: Check::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: unhealthy,
            healthy_threshold: healthy,
        }
    }

    /// What each result in turn changes.
    fn changes(results: &[bool], thresholds: &Health) -> Vec<Option<bool>> {
        let mut tally = Tally::default();
        results.iter().map(|result| tally.note(*result, thresholds)).collect()
    }

    #[test]
    fn the_first_result_counts_at_once() {
        assert_eq!(changes(&[NO], &thresholds(3, 2)), [Some(NO)]);
        assert_eq!(changes(&[YES], &thresholds(3, 2)), [Some(YES)]);
    }

    #[test]
    fn as_many_in_a_row_as_the_threshold_says_change_the_state() {
        let said = changes(&[YES, NO, NO, NO, NO, YES, YES, YES], &thresholds(3, 2));
        assert_eq!(said, [Some(YES), None, None, Some(NO), None, None, Some(YES), None]);
        assert_eq!(changes(&[YES, NO, YES], &thresholds(1, 1)), [Some(YES), Some(NO), Some(YES)]);
    }

    #[test]
    fn a_result_of_the_other_kind_begins_the_row_anew() {
        let said = changes(&[YES, NO, NO, YES, NO, NO, NO], &thresholds(3, 2));
        assert_eq!(said, [Some(YES), None, None, None, None, None, Some(NO)]);
        let said = changes(&[NO, YES, NO, YES, YES], &thresholds(3, 2));
        assert_eq!(said, [Some(NO), None, None, None, Some(YES)]);
    }

    #[test]
    fn the_state_is_that_of_the_last_run_as_long_as_its_threshold() {
        // Every row of twelve results, against the rule in other words.
        for bits in 0_u32..1 << 12 {
            let results: Vec<bool> = (0..12).map(|bit| bits >> bit & 1 == 1).collect();
            let (mut tally, thresholds) = (Tally::default(), thresholds(3, 2));
            let mut state = None;
            for end in 1..=results.len() {
                let now = results[end - 1];
                let run = results[..end].iter().rev().take_while(|result| **result == now).count();
                let needed = if end == 1 {
                    1
                } else if now {
                    2
                } else {
                    3
                };
                if run >= needed {
                    state = Some(now);
                }
                tally.note(now, &thresholds);
                assert_eq!(tally.healthy, state, "{:?}", &results[..end]);
            }
        }
    }

    #[test]
    fn what_was_found_stays_when_something_else_is_asked() {
        let (mut tally, thresholds) = (Tally::default(), thresholds(2, 2));
        tally.note(YES, &thresholds);
        tally.note(NO, &thresholds);
        tally.ask_anew();
        assert_eq!(tally.note(NO, &thresholds), None);
        assert_eq!(tally.note(NO, &thresholds), Some(NO));
    }
}
