//! How long a fault must stay before it is told: files that belong together are often written one by one.

use std::time::Duration;

use tokio::time::Instant;

/// Files of which each look finds other faults are told at last, after so many times the patience.
const RESTLESS: u32 = 10;

/// The patience with what is found wrong, look after look.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    /// `None`: nothing is wrong.
    fault: Option<Fault>,
}

/// What was found that cannot be used.
#[derive(Debug)]
struct Fault {
    /// What tells one fault from another.
    digest: String,
    /// When that was found first.
    since: Instant,
    /// When the first of those was found that came after what was good, or was told last; `None`: it has been told.
    untold_since: Option<Instant>,
}

impl Patience {
    /// A fault must stay for `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, fault: None }
    }

    /// What was found last is good.
    pub fn settle(&mut self) {
        self.fault = None;
    }

    /// Whether something is wrong, told or not.
    pub fn is_tried(&self) -> bool {
        self.fault.is_some()
    }

    /// Whether a fault has stayed for so long that it is told: one that was looked for at `looked_at` and known by
    /// `found_at`, however late that is, since what was missing may have come meanwhile. `digest` tells it from others.
    /// Another is a fault of its own, also where one has been told: whoever mends files one by one has as much time as
    /// whoever replaces good ones.
    pub fn has_stayed(&mut self, digest: &str, looked_at: Instant, found_at: Instant) -> bool {
        let before = self.fault.take();
        let untold_since = before.as_ref().and_then(|before| before.untold_since).unwrap_or(found_at);
        let since = before.filter(|before| before.digest == digest).map_or(found_at, |before| before.since);
        let for_long = |since: Instant, long: Duration| looked_at.saturating_duration_since(since) >= long;
        let has_stayed = for_long(since, self.limit) || for_long(untold_since, self.limit * RESTLESS);
        let untold_since = (!has_stayed).then_some(untold_since);
        self.fault = Some(Fault { digest: digest.to_owned(), since, untold_since });
        has_stayed
    }
}

#[cfg(test)]
mod tests {
    use crate::patience::*;

    fn patience() -> Patience {
        Patience::new(Duration::from_secs(1))
    }

    /// What is said of faults that are found, each after so many milliseconds; looks take no time.
    fn told(found: &[(u64, &str)]) -> Vec<bool> {
        let (mut patience, began) = (patience(), Instant::now());
        let at = |millis: &u64| began + Duration::from_millis(*millis);
        found.iter().map(|(millis, digest)| patience.has_stayed(digest, at(millis), at(millis))).collect()
    }

    #[test]
    fn a_fault_is_told_when_it_has_stayed() {
        assert_eq!(told(&[(0, "a"), (999, "a"), (1_000, "a"), (9_000, "a")]), [false, false, true, true]);
    }

    #[test]
    fn what_comes_after_a_fault_that_was_told_has_as_much_time() {
        let found = [(0, "a"), (1_000, "a"), (60_000, "b"), (60_999, "b"), (61_000, "b"), (70_000, "a")];
        assert_eq!(told(&found), [false, true, false, false, true, false]);
    }

    #[test]
    fn files_that_are_wrong_in_another_way_at_each_look_are_told_at_last() {
        let digests: Vec<String> = (0..=100).map(|look| look.to_string()).collect();
        let found: Vec<(u64, &str)> = (0..).step_by(100).zip(digests.iter().map(String::as_str)).collect();
        assert_eq!(told(&found).iter().position(|told| *told), Some(100), "after ten seconds");
    }

    #[test]
    fn what_was_read_in_time_is_no_fault_however_late_that_is_known() {
        let (mut patience, began) = (patience(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        // The second look began in time, and its answer came when the machine had slept.
        assert!(!patience.has_stayed("a", at(0), at(500)));
        assert!(!patience.has_stayed("a", at(1_400), at(5_000)));
        assert!(patience.has_stayed("a", at(1_500), at(1_500)));
    }

    #[test]
    fn what_was_good_in_between_begins_anew() {
        let (mut patience, began) = (patience(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        assert!(!patience.has_stayed("a", at(0), at(0)) && patience.is_tried());
        patience.settle();
        assert!(!patience.is_tried() && !patience.has_stayed("a", at(5_000), at(5_000)));
    }
}
