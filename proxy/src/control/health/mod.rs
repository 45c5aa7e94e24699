//! Active checks (`health`): each endpoint of a service that asks for it is asked now and then how it is.
//!
//! ```text
//! snapshot -> one checker per endpoint -> wait (interval, a tenth more or less) -> check -> tally -> Endpoint::set_healthy
//!                  |  gone: ends                                                    \-> board -> /clusters, metrics
//!                  '- changed: takes over, keeps what it found
//! ```
//!
//! All of it runs on the control thread. The checks end with the sidecar; while it drains they go on, because the app's
//! own calls do.

pub(crate) mod answer;
pub(crate) mod board;
pub(crate) mod probe;
pub(crate) mod tally;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use files::Reports;
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::context::Shared;
use crate::control::health::board::{Board, Finding};
use crate::control::health::probe::{Found, Plan, Prober};
use crate::control::health::tally::Tally;
use crate::endpoint::Endpoint;
use crate::tables::{Purpose, Tables};

/// Checks that are under way at a time; more wait, and are counted.
const CHECKS_MAX: usize = 256;
/// The part of the interval within which the first check comes: soon, and not all at once.
const FIRST_WITHIN: f64 = 0.1;

/// The checks of all endpoints.
pub(crate) struct Checks {
    pub(crate) shared: Arc<Shared>,
    pub(crate) board: Arc<Board>,
    pub(crate) reports: Reports,
}

impl Checks {
    /// Follows the snapshots for as long as the process lives. On a [`tokio::task::LocalSet`].
    pub(crate) async fn run(self) {
        let mut published = self.shared.published.subscribe();
        let places = Rc::new(Semaphore::new(CHECKS_MAX));
        let mut checkers = FxHashMap::default();
        loop {
            published.borrow_and_update();
            let tables = self.shared.tables.load_full();
            checkers = self.follow(checkers, &tables, &places);
            drop(tables);
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// The checkers for a snapshot: those of endpoints that stay go on, the others end.
    fn follow(
        &self,
        mut before: FxHashMap<*const Endpoint, Checker>,
        tables: &Tables,
        places: &Rc<Semaphore>,
    ) -> FxHashMap<*const Endpoint, Checker> {
        let mut checkers = FxHashMap::default();
        for plan in plans(tables) {
            let at = Arc::as_ptr(&plan.endpoint);
            let checker = match before.remove(&at) {
                Some(checker) => {
                    checker.take_over(plan);
                    checker
                }
                None => self.start(plan, places.clone()),
            };
            checkers.insert(at, checker);
        }
        checkers
    }

    fn start(&self, plan: Plan, places: Rc<Semaphore>) -> Checker {
        self.board.begin(&plan.service, &plan.endpoint);
        let (plans, followed) = watch::channel(plan.clone());
        let work = Work {
            shared: self.shared.clone(),
            board: self.board.clone(),
            reports: self.reports.clone(),
            places,
            tally: Tally::default(),
            prober: Prober::new(self.shared.clone()),
            plan,
        };
        let task = tokio::task::spawn_local(work.run(followed)).abort_handle();
        Checker { shared: self.shared.clone(), board: self.board.clone(), plans, task }
    }
}

/// How each endpoint is to be checked, once for each.
fn plans(tables: &Tables) -> impl Iterator<Item = Plan> {
    let clusters = tables.clusters.iter().filter(|cluster| cluster.purpose == Purpose::Endpoints);
    // A service's endpoints may be in several clusters.
    let dials: FxHashMap<usize, &Arc<str>> =
        clusters.flat_map(|cluster| cluster.dials.iter().map(|dial| (*dial, &cluster.service))).collect();
    dials.into_iter().filter_map(|(dial, service)| {
        let dial = &tables.endpoints[dial];
        Some(Plan {
            service: service.clone(),
            endpoint: dial.endpoint.clone(),
            tls: dial.tls.clone(),
            user_timeout: dial.upstream.user_timeout,
            health: dial.health.clone()?,
        })
    })
}

/// A checker of one endpoint. When it is dropped, nobody knows anything against the endpoint any more.
struct Checker {
    shared: Arc<Shared>,
    board: Arc<Board>,
    plans: watch::Sender<Plan>,
    task: AbortHandle,
}

impl Checker {
    fn take_over(&self, plan: Plan) {
        self.plans.send_if_modified(|ours| {
            let same = ours.health == plan.health
                && ours.user_timeout == plan.user_timeout
                && ours.tls.is_some() == plan.tls.is_some()
                && ours
                    .tls
                    .as_ref()
                    .zip(plan.tls.as_ref())
                    .is_none_or(|(ours, next)| ours.is_widened_by(next));
            *ours = plan;
            !same
        });
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
        let endpoint = &self.plans.borrow().endpoint;
        self.board.end(endpoint);
        endpoint.set_healthy(true, self.shared.clock.nanos(Instant::now()));
    }
}

/// What a checker does.
struct Work {
    shared: Arc<Shared>,
    board: Arc<Board>,
    reports: Reports,
    places: Rc<Semaphore>,
    tally: Tally,
    prober: Prober,
    plan: Plan,
}

impl Work {
    async fn run(mut self, mut plans: watch::Receiver<Plan>) {
        let mut due = Instant::now() + first(self.plan.health.interval, fastrand::f64());
        loop {
            let began = Instant::now().max(due);
            let found = tokio::select! {
                // A check under way is given up: it asks what is not to be asked any more, or as whom we are no more.
                changed = plans.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let plan = plans.borrow_and_update().clone();
                    if plan.health != self.plan.health {
                        due = due.min(Instant::now() + first(plan.health.interval, fastrand::f64()));
                    }
                    if plan.health.check != self.plan.health.check {
                        self.tally.ask_anew();
                    }
                    self.plan = plan;
                    continue;
                }
                found = self.check(due) => found,
            };
            self.note(found);
            due = began + jittered(self.plan.health.interval, fastrand::f64());
        }
    }

    /// Waits until a check is due and there is a place for it, and checks.
    async fn check(&mut self, due: Instant) -> Found {
        sleep_until(due).await;
        let _place = match self.places.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => {
                self.board.put_off();
                self.places.acquire().await.ok()
            }
        };
        self.prober.check(&self.plan).await
    }

    fn note(&mut self, (finding, why): Found) {
        let Plan { service, endpoint, health, .. } = &self.plan;
        let known_before = self.tally != Tally::default();
        let state = self.tally.note(finding.is_success(), health);
        let first_unimplemented = self.board.note(endpoint, finding, &why, state);
        if let Some(healthy) = state {
            endpoint.set_healthy(healthy, self.shared.clock.nanos(Instant::now()));
        }
        let name = &endpoint.name;
        match (state, known_before) {
            (Some(false), true) => {
                let count = health.unhealthy_threshold;
                self.reports.say(format!("{service} {name} is unhealthy, by {count} checks in a row: {why}"));
            }
            (Some(false), false) => {
                self.reports.say(format!("{service} {name} is unhealthy, by its first check: {why}"));
            }
            (Some(true), true) => self.reports.say(format!("{service} {name} is healthy again")),
            (Some(true), false) | (None, _) => {}
        }
        if first_unimplemented && finding == Finding::Unimplemented {
            self.reports.say(format!(
                "{service} {name}: {why}, and counts as healthy; serve it there, or write `check: tcp`"
            ));
        }
    }
}

/// When the first check comes.
fn first(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(FIRST_WITHIN * random)
}

/// From one check to the next: the interval, a tenth more or less, so that sidecars that started together do not go on
/// to ask together.
fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_check_comes_soon_and_the_others_at_the_interval_more_or_less() {
        let interval = Duration::from_secs(10);
        assert_eq!((first(interval, 0.0), first(interval, 1.0)), (Duration::ZERO, Duration::from_secs(1)));
        assert_eq!(jittered(interval, 0.0), Duration::from_secs(9));
        assert_eq!(jittered(interval, 0.5), Duration::from_secs(10));
        assert_eq!(jittered(interval, 1.0), Duration::from_secs(11));
    }
}
