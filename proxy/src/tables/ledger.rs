//! What outlives a snapshot: the counters of attempts, and what repeats may come to.
//!
//! A counter must never go down, and a budget must not start anew because an endpoint came or went. So they are
//! kept here, by what they are about, and each snapshot borrows them. Taken by the control thread only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::repeats::{RetryBudget, RetryThrottling};

use crate::balance::budget::{Balance, Budget};
use crate::balance::detector::EndpointSet;
use crate::balance::throttle::Throttle;
use crate::clock::Nanos;
use crate::metrics::counter::Counter;
use crate::metrics::events::{Attempts, CAUSES, FATES, OUTCOMES};

/// Services that are in the mesh no more and whose sums are still shown; past it the first by name is forgotten.
const GONE_MAX: usize = 1_000;

/// What was counted of attempts, each list in the order of its labels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// How often each of [`OUTCOMES`] came.
    pub(crate) outcomes: [u64; OUTCOMES.len()],
    /// How often a call went out once more, by [`CAUSES`].
    pub(crate) repeats: [u64; CAUSES.len()],
    /// How such calls ended, by [`FATES`].
    pub(crate) repeated: [u64; FATES.len()],
}

/// What an account is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    /// `NAME.NAMESPACE`.
    pub(crate) service: Arc<str>,
    /// What stands behind an inbound port, and not the service's endpoints.
    pub(crate) app: Option<SocketAddr>,
    /// The labels that select the endpoints.
    pub(crate) labels: BTreeMap<String, String>,
}

/// The counters of one cluster, in every snapshot that has it.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// One for each worker.
    pub(crate) attempts: Arc<[Attempts]>,
    pub(crate) purse: Arc<Purse>,
}

/// What repeats of calls to one service may come to, over all its clusters, workers and snapshots.
#[derive(Debug)]
pub(crate) struct Purse {
    /// Calls that came, one for each worker.
    calls: Box<[Calls]>,
    /// Locked when a call is about to be repeated, and once a second.
    budget: Mutex<Budget>,
    throttle: Mutex<Option<Arc<Throttle>>>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Calls(Counter);

impl Purse {
    fn new(workers: usize) -> Self {
        let calls = (0..workers).map(|_| Calls::default()).collect();
        Self { calls, budget: Mutex::default(), throttle: Mutex::default() }
    }

    /// Counts a call that comes; by its worker.
    pub(crate) fn call(&self, worker: usize) {
        self.calls[worker].0.add(1);
    }

    /// Whether one more call may be repeated at `now`, and if so counts it.
    pub(crate) fn take(&self, rule: &RetryBudget, now: Nanos) -> bool {
        self.budget().take(rule, now, self.calls())
    }

    /// What there is at `now`.
    pub(crate) fn balance(&self, rule: &RetryBudget, now: Nanos) -> Balance {
        self.budget().balance(rule, now, self.calls())
    }

    /// Gives the budget its seconds.
    fn tick(&self, now: Nanos) {
        self.budget().tick(now, self.calls());
    }

    /// The tokens that a snapshot with this rule goes by.
    pub(crate) fn throttle(&self, rule: Option<RetryThrottling>) -> Option<Arc<Throttle>> {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let before = throttle.take();
        *throttle = rule.map(|rule| match before {
            Some(before) if before.is_for(&rule) => before,
            before => Arc::new(Throttle::new(rule, before.as_deref())),
        });
        throttle.clone()
    }

    /// Calls that came so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.iter().map(|worker| worker.0.value()).sum()
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All accounts of the sidecar.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    open: BTreeMap<Subject, Account>,
    /// By service and, for what stands behind an inbound port, app.
    purses: BTreeMap<(Arc<str>, Option<SocketAddr>), Arc<Purse>>,
    /// By service, what was counted in accounts that nobody holds any more.
    closed: BTreeMap<Arc<str>, Sums>,
    /// By service; kept when it is gone, for its counters.
    sets: BTreeMap<Arc<str>, Arc<EndpointSet>>,
}

impl Ledger {
    /// The account of a subject, opened if it is new.
    pub(crate) fn account(&self, subject: Subject, workers: usize) -> Account {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Books { open, purses, .. } = &mut *books;
        let account = open.entry(subject).or_insert_with_key(|subject| {
            let whose = (subject.service.clone(), subject.app);
            let purse = purses.entry(whose).or_insert_with(|| Arc::new(Purse::new(workers)));
            Account { attempts: (0..workers).map(|_| Attempts::default()).collect(), purse: purse.clone() }
        });
        account.clone()
    }

    /// What all snapshots share of a service's endpoints.
    pub(crate) fn endpoint_set(&self, service: &Arc<str>) -> Arc<EndpointSet> {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.sets.entry(service.clone()).or_default().clone()
    }

    /// The same of every service that is or was there.
    pub(crate) fn endpoint_sets(&self) -> BTreeMap<Arc<str>, Arc<EndpointSet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sets.clone()
    }

    /// Gives each budget its seconds; to be called once a second.
    pub(crate) fn tick(&self, now: Nanos) {
        let books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.purses.values().for_each(|purse| purse.tick(now));
    }

    /// Closes the accounts that no snapshot has any more, so that they do not gather where nobody asks for sums.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).close();
    }

    /// The sums of every service that has or had an account.
    pub(crate) fn sums(&self) -> BTreeMap<Arc<str>, Sums> {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.close();
        let mut sums = books.closed.clone();
        for (subject, account) in &books.open {
            account.add_to(sums.entry(subject.service.clone()).or_default());
        }
        sums
    }
}

impl Books {
    /// Takes the sums of accounts over that no snapshot has any more: no call can count there.
    fn close(&mut self) {
        let Self { open, purses, closed, sets } = self;
        open.retain(|subject, account| {
            let held = Arc::strong_count(&account.attempts) > 1;
            if !held {
                account.add_to(closed.entry(subject.service.clone()).or_default());
            }
            held
        });
        purses.retain(|_, purse| Arc::strong_count(purse) > 1);
        while closed.len() > GONE_MAX {
            closed.pop_first();
        }
        let gone =
            |set: &Arc<EndpointSet>| Arc::strong_count(set) == 1 && Arc::strong_count(&set.changes) == 1;
        let mut surplus = sets.values().filter(|set| gone(set)).count().saturating_sub(GONE_MAX);
        sets.retain(|_, set| {
            let forgotten = surplus > 0 && gone(set);
            surplus -= usize::from(forgotten);
            !forgotten
        });
    }
}

impl Account {
    fn add_to(&self, sums: &mut Sums) {
        let add = |sums: &mut [u64], of: fn(&Attempts, usize) -> u64| {
            for (label, sum) in sums.iter_mut().enumerate() {
                *sum += self.attempts.iter().map(|worker| of(worker, label)).sum::<u64>();
            }
        };
        add(&mut sums.outcomes, Attempts::ended);
        add(&mut sums.repeats, Attempts::repeats);
        add(&mut sums.repeated, Attempts::repeated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::events::Outcome;

    fn subject(service: &str) -> Subject {
        Subject { service: service.into(), app: None, labels: BTreeMap::new() }
    }

    #[test]
    fn what_was_counted_stays_counted_when_a_cluster_goes_and_comes_back() {
        let ledger = Ledger::default();
        let answered =
            |ledger: &Ledger| ledger.sums()[&Arc::from("echo.shop")].outcomes[Outcome::Answered as usize];
        let first = ledger.account(subject("echo.shop"), 1);
        first.attempts[0].end(Outcome::Answered);
        let again = ledger.account(subject("echo.shop"), 1);
        assert!(Arc::ptr_eq(&first.attempts, &again.attempts), "one account while a snapshot has it");
        drop(again);
        assert_eq!(answered(&ledger), 1);
        first.attempts[0].end(Outcome::Answered);
        drop(first);
        assert_eq!(answered(&ledger), 2, "nobody has it");
        assert!(ledger.0.lock().unwrap().open.is_empty());
        ledger.account(subject("echo.shop"), 1).attempts[0].end(Outcome::Answered);
        assert_eq!(answered(&ledger), 3);
    }

    #[test]
    fn what_is_kept_of_services_that_are_gone_is_bounded() {
        let ledger = Ledger::default();
        for number in 0..GONE_MAX + 10 {
            ledger.account(subject(&format!("{number:05}")), 1).attempts[0].end(Outcome::Refused);
        }
        assert_eq!(ledger.sums().len(), GONE_MAX);
    }
}
