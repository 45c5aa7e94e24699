//! What calls ask for by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::demand::Question;

/// Hosts that are asked for by name. One more takes the place of the oldest that is nobody's.
const HOSTS_MAX: usize = 4_096;

/// A host of which the control plane has said nothing for this long is taken for nobody's until it says something: one that
/// never answers must not hold up the calls that come later, nor end those that have less time.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// The hosts that calls have asked for, and the calls that still wait.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// In the order in which they were asked for first.
    order: VecDeque<String>,
    waiting: BTreeMap<String, Vec<oneshot::Sender<bool>>>,
    /// Since when nothing has been known of a host that calls ask for; not more than `order`.
    open: BTreeMap<String, Instant>,
}

impl Hosts {
    /// Those of an earlier process.
    pub(crate) fn resume(&mut self, hosts: Vec<String>) {
        self.order = hosts.into_iter().take(HOSTS_MAX).collect();
    }

    /// Takes a question in at `now`. `look` says what is known of a host: that a service in force has it, that nobody has, or
    /// nothing yet. Returns whether other hosts are to be asked for now.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        now: Instant,
        look: impl Fn(&str) -> Option<bool>,
    ) -> bool {
        let Question { host, answer } = question;
        let open = &self.open;
        let look = |host: &str| look(host).or_else(|| is_overdue(open, host, now).then_some(false));
        if let Some(known) = look(&host) {
            // Who asked may have gone.
            let _ = answer.send(known);
            return false;
        }
        let is_new = !self.order.contains(&host);
        if is_new {
            if self.order.len() >= HOSTS_MAX {
                let Some(oldest) = self.order.iter().position(|host| look(host) == Some(false)) else {
                    let _ = answer.send(false);
                    return false;
                };
                if let Some(oldest) = self.order.remove(oldest) {
                    self.open.remove(&oldest);
                }
            }
            self.order.push_back(host.clone());
        }
        self.open.entry(host.clone()).or_insert(now);
        let waiting = self.waiting.entry(host).or_default();
        waiting.retain(|answer| !answer.is_closed());
        waiting.push(answer);
        is_new
    }

    /// Answers whom it can at `now`.
    pub(crate) fn answer(&mut self, now: Instant, look: impl Fn(&str) -> Option<bool>) {
        self.open.retain(|host, _| look(host).is_none());
        let open = &self.open;
        self.waiting.retain(|host, answers| {
            let known = look(host).or_else(|| is_overdue(open, host, now).then_some(false));
            let Some(known) = known else {
                answers.retain(|answer| !answer.is_closed());
                return !answers.is_empty();
            };
            for answer in answers.drain(..) {
                let _ = answer.send(known);
            }
            false
        });
    }

    /// When the first of those that wait is not worth waiting for any longer.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.keys().filter_map(|host| self.open.get(host)).min().map(|since| *since + OPEN_MAX)
    }

    /// Nobody can answer any more. Who can again is given time anew.
    pub(crate) fn give_up(&mut self) {
        self.open.clear();
        self.waiting.clear();
    }

    /// All that are asked for.
    pub(crate) fn all(&self) -> BTreeSet<String> {
        self.order.iter().cloned().collect()
    }

    /// All that are asked for, in their order.
    pub(crate) fn list(&self) -> Vec<String> {
        self.order.iter().cloned().collect()
    }
}

fn is_overdue(open: &BTreeMap<String, Instant>, host: &str, now: Instant) -> bool {
    open.get(host).is_some_and(|since| now.saturating_duration_since(*since) >= OPEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(host: &str) -> (Question, oneshot::Receiver<bool>) {
        let (answer, answered) = oneshot::channel();
        (Question { host: host.to_owned(), answer }, answered)
    }

    #[test]
    fn who_asks_for_what_is_known_is_told_at_once_and_the_others_when_it_is() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let (known, mut told) = question("here");
        assert!(!hosts.ask(known, now, |_| Some(true)));
        assert_eq!(told.try_recv(), Ok(true));
        let (open, mut told) = question("open");
        assert!(hosts.ask(open, now, |_| None));
        let (twin, mut twin_told) = question("open");
        assert!(!hosts.ask(twin, now, |_| None), "it is asked for already");
        assert_eq!(hosts.list(), ["open"]);
        hosts.answer(now, |_| None);
        assert!(told.try_recv().is_err());
        hosts.answer(now, |host| Some(host == "open"));
        assert_eq!((told.try_recv(), twin_told.try_recv()), (Ok(true), Ok(true)));
        assert_eq!(hosts.list(), ["open"], "it is still asked for: it may change");
    }

    #[test]
    fn past_the_limit_the_oldest_that_is_nobodys_makes_room() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        for number in 0..HOSTS_MAX {
            assert!(hosts.ask(question(&number.to_string()).0, now, |_| None));
        }
        let (refused, mut told) = question("one more");
        assert!(!hosts.ask(refused, now, |_| None));
        assert_eq!(told.try_recv(), Ok(false));
        let look = |host: &str| (host == "7").then_some(false);
        assert!(hosts.ask(question("one more").0, now, look));
        assert!(!hosts.all().contains("7") && hosts.all().contains("one more"));
        assert_eq!(hosts.list().len(), HOSTS_MAX);
    }

    #[test]
    fn calls_that_have_gone_leave_nothing_behind() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        for _ in 0..3 {
            let _ = hosts.ask(question("open").0, now, |_| None);
        }
        assert_eq!(hosts.waiting["open"].len(), 1);
        hosts.answer(now, |_| None);
        assert!(hosts.waiting.is_empty());
    }

    #[test]
    fn a_host_that_nothing_is_said_of_holds_nobody_up_for_long_and_makes_room() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let (first, mut first_told) = question("open");
        assert!(hosts.ask(first, now, |_| None));
        assert_eq!(hosts.due(), Some(now + OPEN_MAX));
        hosts.answer(now + OPEN_MAX / 2, |_| None);
        assert!(first_told.try_recv().is_err());
        hosts.answer(now + OPEN_MAX, |_| None);
        assert_eq!((first_told.try_recv(), hosts.due()), (Ok(false), None));
        let (later, mut told) = question("open");
        assert!(!hosts.ask(later, now + 2 * OPEN_MAX, |_| None));
        assert_eq!(told.try_recv(), Ok(false), "also the calls that come later");
        for number in 1..HOSTS_MAX {
            hosts.ask(question(&number.to_string()).0, now + 2 * OPEN_MAX, |_| None);
        }
        assert!(hosts.ask(question("one more").0, now + 2 * OPEN_MAX, |_| None));
        assert!(!hosts.all().contains("open"), "it has made room");
        hosts.give_up();
        assert!(hosts.ask(question("open").0, now + 2 * OPEN_MAX, |host| (host == "7").then_some(false)));
        assert_eq!(hosts.due(), Some(now + 3 * OPEN_MAX), "another connection is given time anew");
    }

    #[test]
    fn what_was_said_of_a_host_in_the_end_counts() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        assert!(hosts.ask(question("late").0, now, |_| None));
        let (again, mut told) = question("late");
        assert!(!hosts.ask(again, now + OPEN_MAX, |_| Some(true)));
        assert_eq!(told.try_recv(), Ok(true));
        hosts.answer(now + OPEN_MAX, |_| Some(true));
        assert!(hosts.open.is_empty());
    }
}
