//! What calls want to know of the control plane: whether it has a service that the snapshot does not have.
//!
//! Questions are asked on the control thread; what is here is how they get there, and which answers are remembered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// How long a call waits for the first mesh, and for a service that the control plane may know.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Questions of calls that wait to be looked at. One more is refused and counted: its call goes on as if nobody knew.
const QUESTIONS_MAX: usize = 256;
/// Hosts that are remembered as nobody's; past it all of them are forgotten.
const ABSENT_MAX: usize = 1_024;
/// How long a host is remembered as nobody's.
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// The longest name of a host that DNS knows.
const HOST_BYTES_MAX: usize = 253;

/// What came of questions: the label `answer` of `outrigger_on_demand_total`.
pub(crate) const ANSWERS: [&str; 4] = ["known", "unknown", "late", "refused"];

/// The numbers of [`ANSWERS`].
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Told {
    Known,
    Unknown,
    Late,
    Refused,
}

/// Between calls and the control plane.
#[derive(Debug)]
pub(crate) struct Demand {
    questions: mpsc::Sender<Question>,
    /// A control plane is connected, so that an answer can come.
    reachable: AtomicBool,
    /// Hosts that are nobody's, and until when that is believed. Locked only for calls to hosts that no service has.
    absent: Mutex<FxHashMap<Box<str>, Instant>>,
    told: [AtomicU64; ANSWERS.len()],
}

/// A host that a call wants to go to.
#[derive(Debug)]
pub(crate) struct Question {
    /// In lower case, without a port.
    pub(crate) host: String,
    /// Whether a service of the snapshot in force has it by now; `false`: nobody has.
    pub(crate) answer: oneshot::Sender<bool>,
}

impl Demand {
    /// The calls' end, and that of the control thread.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let reachable = AtomicBool::new(false);
        (Self { questions, reachable, absent: Mutex::default(), told: Default::default() }, asked)
    }

    /// Says whether an answer can come.
    pub(crate) fn reach(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Relaxed);
    }

    /// Whether it is worth while to ask for a host that no service of the snapshot has.
    pub(crate) fn may_be_known(&self, host: &str, now: Instant) -> bool {
        self.reachable.load(Ordering::Relaxed)
            && !host.is_empty()
            && host.len() <= HOST_BYTES_MAX
            && self.absent().get(host).is_none_or(|until| *until <= now)
    }

    /// Asks for a host, and waits for [`PATIENCE`] at most until the answer is in force.
    pub(crate) async fn ask(&self, host: &str) {
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Question { host: host.to_owned(), answer }).is_err() {
            return self.count(Told::Refused);
        }
        let told = match timeout(PATIENCE, answered).await {
            Ok(Ok(true)) => Told::Known,
            Ok(Ok(false)) => Told::Unknown,
            // Nobody is there to answer: the control plane has gone meanwhile.
            Ok(Err(_)) => return self.count(Told::Late),
            Err(_) => Told::Late,
        };
        if !matches!(told, Told::Known) {
            // Who gets no answer at all must not make every call wait for it.
            self.remember(host, Instant::now());
        }
        self.count(told);
    }

    /// The snapshot has other hosts now: what nobody had, somebody may have.
    pub(crate) fn forget(&self) {
        self.absent().clear();
    }

    /// What came of questions so far, in the order of [`ANSWERS`].
    pub(crate) fn told(&self) -> impl Iterator<Item = u64> {
        self.told.iter().map(|count| count.load(Ordering::Relaxed))
    }

    fn remember(&self, host: &str, now: Instant) {
        let mut absent = self.absent();
        if absent.len() >= ABSENT_MAX {
            absent.retain(|_, until| *until > now);
            if absent.len() >= ABSENT_MAX {
                absent.clear();
            }
        }
        absent.insert(host.into(), now + ABSENT_FOR);
    }

    fn count(&self, told: Told) {
        self.told[told as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn absent(&self) -> MutexGuard<'_, FxHashMap<Box<str>, Instant>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_nobodys_is_not_asked_for_again_until_its_time_is_over_or_the_mesh_changes() {
        let (demand, mut asked) = Demand::new();
        let may = |host: &str| demand.may_be_known(host, Instant::now());
        assert!(!may("a"), "nobody could answer");
        demand.reach(true);
        assert!(may("a") && !may("") && !may(&"a".repeat(254)));
        let answer = async {
            let question = asked.recv().await.unwrap();
            question.answer.send(false).unwrap();
        };
        tokio::join!(demand.ask("a"), answer);
        assert!(!may("a") && may("b"));
        tokio::time::advance(ABSENT_FOR).await;
        assert!(may("a"));
        demand.remember("a", Instant::now());
        demand.forget();
        assert!(may("a"));
        assert_eq!(demand.told().collect::<Vec<_>>(), [0, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_answer_waits_five_seconds_once() {
        let (demand, _asked) = Demand::new();
        demand.reach(true);
        let began = Instant::now();
        demand.ask("a").await;
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(!demand.may_be_known("a", Instant::now()));
        assert_eq!(demand.told().collect::<Vec<_>>(), [0, 0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn more_questions_than_can_wait_are_refused_at_once() {
        let (demand, _asked) = Demand::new();
        for _ in 0..QUESTIONS_MAX {
            let (answer, _) = oneshot::channel();
            demand.questions.try_send(Question { host: "a".to_owned(), answer }).unwrap();
        }
        let began = Instant::now();
        demand.ask("b").await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(demand.told().collect::<Vec<_>>(), [0, 0, 0, 1]);
    }

    #[test]
    fn not_more_hosts_are_remembered_than_the_limit_says() {
        let (demand, _asked) = Demand::new();
        for host in 0..3 * ABSENT_MAX {
            demand.remember(&host.to_string(), Instant::now());
            assert!(demand.absent().len() <= ABSENT_MAX);
        }
    }
}
