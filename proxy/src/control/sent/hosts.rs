//! What calls ask for by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::demand::{Answer, Question};

/// Hosts that are asked for by name. One more takes the place of the oldest that is nobody's.
const HOSTS_MAX: usize = 4_096;

/// A host of which the control plane has said nothing for this long is taken for nobody's until it says something: one that
/// never answers must not hold up the calls that come later, nor end those that have less time.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// What is known of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A service in force has it.
    Here,
    /// A service has it that will be in force in a moment.
    Coming,
    /// Nobody has it, or whoever has it cannot be used.
    Nobodys,
    /// The control plane has said nothing of it.
    None,
}

/// The hosts that calls have asked for, and the calls that still wait.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// In the order in which they were asked for first.
    order: VecDeque<String>,
    waiting: BTreeMap<String, Vec<Answer>>,
    /// Since when nothing has been known of a host that calls ask for; not more than `order`.
    open: BTreeMap<String, Instant>,
}

impl Hosts {
    /// Those of an earlier process.
    pub(crate) fn resume(&mut self, hosts: Vec<String>) {
        self.order = hosts.into_iter().take(HOSTS_MAX).collect();
    }

    /// Takes a question in at `now`; `look` says what is known of a host. Returns whether other hosts are to be asked for now.
    pub(crate) fn ask(&mut self, question: Question, now: Instant, look: impl Fn(&str) -> Word) -> bool {
        let Question { host, answer } = question;
        let open = &self.open;
        let look = |host: &str| settled(look(host), open, host, now);
        if let Some(known) = look(&host) {
            answer.tell(known);
            return false;
        }
        let is_new = !self.order.contains(&host);
        if is_new {
            if self.order.len() >= HOSTS_MAX {
                let Some(oldest) = self.order.iter().position(|host| look(host) == Some(false)) else {
                    answer.tell(false);
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
    pub(crate) fn answer(&mut self, now: Instant, look: impl Fn(&str) -> Word) {
        self.open.retain(|host, since| match look(host) {
            Word::None => true,
            Word::Here | Word::Nobodys => false,
            // Should it not come after all, the control plane has its time anew.
            Word::Coming => {
                *since = now;
                true
            }
        });
        let open = &self.open;
        self.waiting.retain(|host, answers| {
            let Some(known) = settled(look(host), open, host, now) else {
                answers.retain(|answer| !answer.is_closed());
                return !answers.is_empty();
            };
            for answer in answers.drain(..) {
                answer.tell(known);
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

/// Whether a call is to be told that a service in force has the host; `None`: it is to wait.
fn settled(word: Word, open: &BTreeMap<String, Instant>, host: &str, now: Instant) -> Option<bool> {
    let is_overdue = || open.get(host).is_some_and(|since| now.saturating_duration_since(*since) >= OPEN_MAX);
    match word {
        Word::Here => Some(true),
        Word::Nobodys => Some(false),
        Word::Coming => None,
        Word::None => is_overdue().then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answered = tokio::sync::watch::Receiver<Option<bool>>;

    fn question(host: &str) -> (Question, Answered) {
        let (answer, answered) = Answer::new();
        (Question { host: host.to_owned(), answer }, answered)
    }

    fn told(answered: &Answered) -> Option<bool> {
        *answered.borrow()
    }

    #[test]
    fn who_asks_for_what_is_known_is_told_at_once_and_the_others_when_it_is() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let (known, answered) = question("here");
        assert!(!hosts.ask(known, now, |_| Word::Here));
        assert_eq!(told(&answered), Some(true));
        let (open, answered) = question("open");
        assert!(hosts.ask(open, now, |_| Word::None));
        let (twin, twin_answered) = question("open");
        assert!(!hosts.ask(twin, now, |_| Word::None), "it is asked for already");
        assert_eq!(hosts.list(), ["open"]);
        hosts.answer(now, |_| Word::None);
        assert_eq!(told(&answered), None);
        hosts.answer(now, |host| if host == "open" { Word::Here } else { Word::Nobodys });
        assert_eq!((told(&answered), told(&twin_answered)), (Some(true), Some(true)));
        assert_eq!(hosts.list(), ["open"], "it is still asked for: it may change");
    }

    #[test]
    fn past_the_limit_the_oldest_that_is_nobodys_makes_room() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        for number in 0..HOSTS_MAX {
            assert!(hosts.ask(question(&number.to_string()).0, now, |_| Word::None));
        }
        let (refused, answered) = question("one more");
        assert!(!hosts.ask(refused, now, |_| Word::None));
        assert_eq!(told(&answered), Some(false));
        let look = |host: &str| if host == "7" { Word::Nobodys } else { Word::None };
        assert!(hosts.ask(question("one more").0, now, look));
        assert!(!hosts.all().contains("7") && hosts.all().contains("one more"));
        assert_eq!(hosts.list().len(), HOSTS_MAX);
    }

    #[test]
    fn calls_that_have_gone_leave_nothing_behind() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        for _ in 0..3 {
            let _ = hosts.ask(question("open").0, now, |_| Word::None);
        }
        assert_eq!(hosts.waiting["open"].len(), 1);
        hosts.answer(now, |_| Word::None);
        assert!(hosts.waiting.is_empty());
    }

    #[test]
    fn a_host_that_nothing_is_said_of_holds_nobody_up_for_long_and_makes_room() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let (first, first_answered) = question("open");
        assert!(hosts.ask(first, now, |_| Word::None));
        assert_eq!(hosts.due(), Some(now + OPEN_MAX));
        hosts.answer(now + OPEN_MAX / 2, |_| Word::None);
        assert_eq!(told(&first_answered), None);
        hosts.answer(now + OPEN_MAX, |_| Word::None);
        assert_eq!((told(&first_answered), hosts.due()), (Some(false), None));
        let (later, answered) = question("open");
        assert!(!hosts.ask(later, now + 2 * OPEN_MAX, |_| Word::None));
        assert_eq!(told(&answered), Some(false), "also the calls that come later");
        for number in 1..HOSTS_MAX {
            hosts.ask(question(&number.to_string()).0, now + 2 * OPEN_MAX, |_| Word::None);
        }
        assert!(hosts.ask(question("one more").0, now + 2 * OPEN_MAX, |_| Word::None));
        assert!(!hosts.all().contains("open"), "it has made room");
        hosts.give_up();
        assert!(hosts.ask(question("open").0, now + 2 * OPEN_MAX, |host| if host == "7" {
            Word::Nobodys
        } else {
            Word::None
        }));
        assert_eq!(hosts.due(), Some(now + 3 * OPEN_MAX), "another connection is given time anew");
    }

    #[test]
    fn what_was_said_of_a_host_in_the_end_counts() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        assert!(hosts.ask(question("late").0, now, |_| Word::None));
        let (again, answered) = question("late");
        assert!(!hosts.ask(again, now + OPEN_MAX, |_| Word::Here));
        assert_eq!(told(&answered), Some(true));
        hosts.answer(now + OPEN_MAX, |_| Word::Here);
        assert!(hosts.open.is_empty());
    }

    #[test]
    fn a_host_that_comes_in_a_moment_is_waited_for_however_long_that_takes() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let (coming, answered) = question("coming");
        assert!(hosts.ask(coming, now, |_| Word::None));
        for second in 1..=3 {
            hosts.answer(now + second * OPEN_MAX, |_| Word::Coming);
            assert_eq!(told(&answered), None);
        }
        let (later, later_answered) = question("coming");
        assert!(!hosts.ask(later, now + 4 * OPEN_MAX, |_| Word::Coming));
        hosts.answer(now + 4 * OPEN_MAX, |_| Word::Here);
        assert_eq!((told(&answered), told(&later_answered)), (Some(true), Some(true)));
    }
}
