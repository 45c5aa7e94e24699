//! What calls ask for by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::oneshot;

use crate::demand::Question;

/// Hosts that are asked for by name. One more takes the place of the oldest that is nobody's.
const HOSTS_MAX: usize = 4_096;

/// The hosts that calls have asked for, and the calls that still wait.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// In the order in which they were asked for first.
    order: VecDeque<String>,
    waiting: BTreeMap<String, Vec<oneshot::Sender<bool>>>,
}

impl Hosts {
    /// Those of an earlier process.
    pub(crate) fn resume(&mut self, hosts: Vec<String>) {
        self.order = hosts.into_iter().take(HOSTS_MAX).collect();
    }

    /// Takes a question in. `look` says what is known of a host: that a service in force has it, that nobody has, or
    /// nothing yet. Returns whether other hosts are to be asked for now.
    pub(crate) fn ask(&mut self, question: Question, look: impl Fn(&str) -> Option<bool>) -> bool {
        let Question { host, answer } = question;
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
                self.order.remove(oldest);
            }
            self.order.push_back(host.clone());
        }
        let waiting = self.waiting.entry(host).or_default();
        waiting.retain(|answer| !answer.is_closed());
        waiting.push(answer);
        is_new
    }

    /// Answers whom it can.
    pub(crate) fn answer(&mut self, look: impl Fn(&str) -> Option<bool>) {
        self.waiting.retain(|host, answers| {
            let Some(known) = look(host) else {
                answers.retain(|answer| !answer.is_closed());
                return !answers.is_empty();
            };
            for answer in answers.drain(..) {
                let _ = answer.send(known);
            }
            false
        });
    }

    /// Nobody can answer any more.
    pub(crate) fn give_up(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn question(host: &str) -> (Question, oneshot::Receiver<bool>) {
        let (answer, answered) = oneshot::channel();
        (Question { host: host.to_owned(), answer }, answered)
    }

    #[test]
    fn who_asks_for_what_is_known_is_told_at_once_and_the_others_when_it_is() {
        let mut hosts = Hosts::default();
        let (known, mut told) = question("here");
        assert!(!hosts.ask(known, |_| Some(true)));
        assert_eq!(told.try_recv(), Ok(true));
        let (open, mut told) = question("open");
        assert!(hosts.ask(open, |_| None));
        let (twin, mut twin_told) = question("open");
        assert!(!hosts.ask(twin, |_| None), "it is asked for already");
        assert_eq!(hosts.list(), ["open"]);
        hosts.answer(|_| None);
        assert!(told.try_recv().is_err());
        hosts.answer(|host| Some(host == "open"));
        assert_eq!((told.try_recv(), twin_told.try_recv()), (Ok(true), Ok(true)));
        assert_eq!(hosts.list(), ["open"], "it is still asked for: it may change");
    }

    #[test]
    fn past_the_limit_the_oldest_that_is_nobodys_makes_room() {
        let mut hosts = Hosts::default();
        for number in 0..HOSTS_MAX {
            assert!(hosts.ask(question(&number.to_string()).0, |_| None));
        }
        let (refused, mut told) = question("one more");
        assert!(!hosts.ask(refused, |_| None));
        assert_eq!(told.try_recv(), Ok(false));
        let look = |host: &str| (host == "7").then_some(false);
        assert!(hosts.ask(question("one more").0, look));
        assert!(!hosts.all().contains("7") && hosts.all().contains("one more"));
        assert_eq!(hosts.list().len(), HOSTS_MAX);
    }

    #[test]
    fn calls_that_have_gone_leave_nothing_behind() {
        let mut hosts = Hosts::default();
        for _ in 0..3 {
            let _ = hosts.ask(question("open").0, |_| None);
        }
        assert_eq!(hosts.waiting["open"].len(), 1);
        hosts.answer(|_| None);
        assert!(hosts.waiting.is_empty());
    }
}
