//! When changes that come together become one. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that have not been sent yet.
#[derive(Debug)]
pub(crate) struct Debounce {
    quiet: Duration,
    longest: Duration,
    /// The first and the newest of them.
    pending: Option<(Instant, Instant)>,
}

impl Debounce {
    /// A change is due once none has followed it for `quiet`, but no later than `longest` after the first one.
    pub(crate) fn new(settings: config::control::Debounce) -> Self {
        Self { quiet: settings.quiet, longest: settings.longest, pending: None }
    }

    /// Something has changed.
    pub(crate) fn note(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// When all of it is to be sent; `None`: there is nothing to send.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending.map(|(first, newest)| (newest + self.quiet).min(first + self.longest))
    }

    /// All of it is being sent.
    pub(crate) fn clear(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn debounce() -> Debounce {
        Debounce::new(config::control::Debounce { quiet: 20 * MS, longest: 200 * MS })
    }

    #[test]
    fn nothing_is_due_before_something_has_changed_and_after_it_was_sent() {
        let (mut debounce, now) = (debounce(), Instant::now());
        assert_eq!(debounce.due(), None);
        debounce.note(now);
        assert!(debounce.due().is_some());
        debounce.clear();
        assert_eq!(debounce.due(), None);
    }

    #[test]
    fn a_lone_change_waits_for_quiet_only() {
        let (mut debounce, now) = (debounce(), Instant::now());
        debounce.note(now);
        assert_eq!(debounce.due(), Some(now + 20 * MS));
    }

    #[test]
    fn each_change_puts_it_off_but_not_past_the_longest() {
        let (mut debounce, now) = (debounce(), Instant::now());
        for change in 0..100 {
            debounce.note(now + change * 10 * MS);
            let expected = (change * 10 + 20).min(200);
            assert_eq!(debounce.due(), Some(now + expected * MS), "change {change}");
        }
    }

    #[test]
    fn after_a_burst_the_next_change_begins_anew() {
        let (mut debounce, now) = (debounce(), Instant::now());
        (0..50).for_each(|change| debounce.note(now + change * 10 * MS));
        debounce.clear();
        let later = now + Duration::from_secs(1);
        debounce.note(later);
        assert_eq!(debounce.due(), Some(later + 20 * MS));
    }
}
