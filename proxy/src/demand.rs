//! What calls want to know of the control plane: whether it has a service that the snapshot does not have.
//!
//! Questions are asked on the control thread; what is here is how they get there, and which answers are remembered.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

/// How long a call waits for the first mesh, and for a service that the control plane may know.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Hosts of which nobody has looked yet whether the control plane has them. One more is refused and counted: its calls go on
/// as if nobody knew.
const QUESTIONS_MAX: usize = 256;
/// Past so many, hosts that no call waits for any more are taken off the list of those that are asked for.
const OPEN_TIDY: usize = 512;
/// Hosts that are remembered as nobody's; past it all of them are forgotten.
const ABSENT_MAX: usize = 1_024;
/// How long a host is remembered as nobody's.
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// The longest name of a host that DNS knows.
const HOST_BYTES_MAX: usize = 253;

/// What came of questions: the label `answer` of `outrigger_on_demand_total`.
pub(crate) const ANSWERS: [&str; 5] = ["known", "unknown", "late", "refused", "away"];

/// The numbers of [`ANSWERS`].
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Told {
    Known,
    Unknown,
    Late,
    Refused,
    Away,
}

/// Where the control plane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Reach {
    /// There is none: the mesh comes from a file.
    Nowhere,
    Away,
    Connected,
}

/// Between calls and the control plane.
#[derive(Debug)]
pub(crate) struct Demand {
    questions: mpsc::Sender<Question>,
    /// A [`Reach`]: whether an answer can come.
    reach: AtomicU8,
    /// Hosts that are nobody's, and until when that is believed. Locked only for calls to hosts that no service has.
    absent: Mutex<FxHashMap<Box<str>, Instant>>,
    /// Hosts that calls wait for: however many calls there are, it is one question. Locked only by calls that wait.
    open: Mutex<FxHashMap<Box<str>, Weak<Answered>>>,
    told: [AtomicU64; ANSWERS.len()],
}

/// A host that a call wants to go to.
#[derive(Debug)]
pub(crate) struct Question {
    /// In lower case, without a port.
    pub(crate) host: String,
    pub(crate) answer: Answer,
}

/// Where the answer goes that all calls to a host wait for. Dropped: nobody is there to answer.
#[derive(Debug)]
pub(crate) struct Answer(watch::Sender<Option<bool>>);

/// Where it comes out.
type Answered = watch::Receiver<Option<bool>>;

impl Answer {
    /// An answer and its other end.
    pub(crate) fn new() -> (Self, Answered) {
        let (answer, answered) = watch::channel(None);
        (Self(answer), answered)
    }

    /// Whether a service of the snapshot in force has the host by now; `false`: nobody has. Who asked may have gone.
    pub(crate) fn tell(self, is_known: bool) {
        let _ = self.0.send(Some(is_known));
    }

    /// Whether all who asked have gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Demand {
    /// The calls' end, and that of the control thread.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let reach = AtomicU8::new(Reach::Nowhere as u8);
        let (absent, open) = (Mutex::default(), Mutex::default());
        (Self { questions, reach, absent, open, told: Default::default() }, asked)
    }

    /// Says whether an answer can come.
    pub(crate) fn reach(&self, is_connected: bool) {
        let reach = if is_connected { Reach::Connected } else { Reach::Away };
        self.reach.store(reach as u8, Ordering::Relaxed);
    }

    /// Counts a call that goes on as if nobody had its host, though a control plane that is away may have it: without
    /// `unknown: refuse` it may leave in plain text.
    pub(crate) fn unasked(&self) {
        if self.reach.load(Ordering::Relaxed) == Reach::Away as u8 {
            self.count(Told::Away);
        }
    }

    /// Whether it is worth while to ask for a host that no service of the snapshot has.
    pub(crate) fn may_be_known(&self, host: &str, now: Instant) -> bool {
        self.reach.load(Ordering::Relaxed) == Reach::Connected as u8
            && !host.is_empty()
            && host.len() <= HOST_BYTES_MAX
            && self.absent().get(host).is_none_or(|until| *until <= now)
    }

    /// Asks for a host, and waits for [`PATIENCE`] at most until the answer is in force.
    pub(crate) async fn ask(&self, host: &str) {
        let Some(open) = self.join(host) else { return self.count(Told::Refused) };
        let mut answered = (*open).clone();
        let answer = async { answered.wait_for(Option::is_some).await.map(|answer| *answer) };
        let told = match timeout(PATIENCE, answer).await {
            Ok(Ok(Some(true))) => Told::Known,
            Ok(Ok(_)) => Told::Unknown,
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

    /// Joins the calls that wait for a host, or is the first of them and asks; `None`: too many hosts are asked for.
    fn join(&self, host: &str) -> Option<Arc<Answered>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has been answered, or never will be, is asked anew.
        let is_open =
            |answered: &Arc<Answered>| answered.has_changed().is_ok() && answered.borrow().is_none();
        if let Some(answered) = open.get(host).and_then(Weak::upgrade).filter(is_open) {
            return Some(answered);
        }
        let (answer, answered) = Answer::new();
        self.questions.try_send(Question { host: host.to_owned(), answer }).ok()?;
        if open.len() >= OPEN_TIDY {
            open.retain(|_, answered| answered.strong_count() > 0);
        }
        let answered = Arc::new(answered);
        open.insert(host.into(), Arc::downgrade(&answered));
        Some(answered)
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
        demand.unasked();
        demand.reach(false);
        assert!(!may("a"));
        demand.unasked();
        demand.reach(true);
        assert!(may("a") && !may("") && !may(&"a".repeat(254)));
        let answer = async {
            let question = asked.recv().await.unwrap();
            question.answer.tell(false);
        };
        tokio::join!(demand.ask("a"), answer);
        assert!(!may("a") && may("b"));
        tokio::time::advance(ABSENT_FOR).await;
        assert!(may("a"));
        demand.remember("a", Instant::now());
        demand.forget();
        assert!(may("a"));
        demand.unasked();
        assert_eq!(
            demand.told().collect::<Vec<_>>(),
            [0, 1, 0, 0, 1],
            "away only where there is one to be away"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_answer_waits_five_seconds_once() {
        let (demand, _asked) = Demand::new();
        demand.reach(true);
        let began = Instant::now();
        demand.ask("a").await;
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(!demand.may_be_known("a", Instant::now()));
        assert_eq!(demand.told().collect::<Vec<_>>(), [0, 0, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn more_questions_than_can_wait_are_refused_at_once() {
        let (demand, _asked) = Demand::new();
        for _ in 0..QUESTIONS_MAX {
            let (answer, _) = Answer::new();
            demand.questions.try_send(Question { host: "a".to_owned(), answer }).unwrap();
        }
        let began = Instant::now();
        demand.ask("b").await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(demand.told().collect::<Vec<_>>(), [0, 0, 0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_calls_wait_for_a_host_it_is_one_question_and_one_answer_for_all() {
        let (demand, mut asked) = Demand::new();
        let demand = Arc::new(demand);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 * QUESTIONS_MAX {
            let demand = demand.clone();
            calls.spawn(async move { demand.ask("a").await });
        }
        let waiting = || demand.open.lock().unwrap().get("a").map_or(0, Weak::strong_count);
        while waiting() < 4 * QUESTIONS_MAX {
            tokio::task::yield_now().await;
        }
        asked.recv().await.unwrap().answer.tell(true);
        calls.join_all().await;
        assert!(asked.try_recv().is_err(), "one question");
        assert_eq!(demand.told().collect::<Vec<_>>(), [4 * QUESTIONS_MAX as u64, 0, 0, 0, 0]);
        // The next call asks anew, and what nobody waits for any more is known to be so.
        assert!(timeout(Duration::ZERO, demand.ask("a")).await.is_err());
        assert!(asked.try_recv().unwrap().answer.is_closed());
        for host in 0..2 * OPEN_TIDY {
            assert!(timeout(Duration::ZERO, demand.ask(&host.to_string())).await.is_err());
            asked.try_recv().unwrap();
        }
        assert!(demand.open.lock().unwrap().len() <= OPEN_TIDY);
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
