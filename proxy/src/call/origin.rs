//! Where a call comes from: the downstream connection as its calls see it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context as TaskContext, Waker};

use config::model::Limits;
use config::spiffe::SpiffeId;
use http::HeaderValue;

use crate::call::standing::Standing;
use crate::clock::Nanos;
use crate::held::Held;
use crate::io::Turn;
use crate::local::{Locals, SeriesCache};
use crate::metrics::calls::Direction;
use crate::passage::Passage;

/// The connection that brought a call.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) way: Way,
    pub(crate) link: Rc<Link>,
    /// Where a call finds a newer snapshot than it began with, if it had to wait for one.
    pub(crate) locals: Rc<Locals>,
    /// The peer proved its identity by mTLS.
    pub(crate) mtls: bool,
}

/// By which listener it came.
#[derive(Debug)]
pub(crate) enum Way {
    /// From the mesh.
    Inbound {
        /// Index into `Tables::entries`.
        entry: usize,
        peer: Option<SpiffeId>,
        standing: Standing,
        /// What the app is told of the caller.
        forwarded: Option<HeaderValue>,
        series: SeriesCache,
    },
    /// From the app.
    Outbound(Via),
}

/// How the app came to our outbound listener, and with it what says which service it calls.
#[derive(Debug)]
pub(crate) enum Via {
    /// By itself: `:authority` names the service.
    Authority,
    /// Through a CONNECT, whose target names the service.
    Connect {
        /// In lower case.
        host: Box<str>,
        port: u16,
    },
    /// Redirected: `:authority` names the service if the mesh knows it, else the call goes where the connection was
    /// going. `None`: to nothing that the mesh does not know.
    Redirected(Option<Rc<Passage>>),
}

impl Origin {
    pub(crate) fn direction(&self) -> Direction {
        match self.way {
            Way::Inbound { .. } => Direction::Inbound,
            Way::Outbound(_) => Direction::Outbound,
        }
    }
}

/// What the connection's task is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Command {
    /// Go on.
    Serve,
    /// Say goodbye, and end when the calls have ended.
    Drain,
    /// The drain's time is over. Calls are told so by what they wait for; bytes that pass as they are end at once.
    End,
    /// End at once: the peer resets streams without measure.
    Calm,
    /// End at once.
    Close,
}

/// Between a connection's task and everyone who wants something of it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) turn: Rc<Turn>,
    pub(crate) held: Rc<Held>,
    command: Cell<Command>,
    /// How often something has changed that the calls' leave goes by.
    changes: Cell<u32>,
    distrusted: Cell<bool>,
    /// The calls that need leave.
    open: RefCell<Places>,
    task: RefCell<Option<Waker>>,
    resets: RefCell<ResetBucket>,
}

impl Link {
    pub(crate) fn new(turn: Rc<Turn>, limits: &Limits, now: Nanos) -> Self {
        Self {
            turn,
            held: Rc::new(Held::new(limits)),
            command: Cell::new(Command::Serve),
            changes: Cell::new(0),
            distrusted: Cell::new(false),
            open: RefCell::default(),
            task: RefCell::default(),
            resets: RefCell::new(ResetBucket::new(limits.resets_per_second, now)),
        }
    }

    /// Asks for `command`; a weaker one than is under way changes nothing.
    pub(crate) fn ask(&self, command: Command) {
        if command > self.command.get() {
            self.command.set(command);
            if let Some(task) = &*self.task.borrow() {
                task.wake_by_ref();
            }
        }
    }

    /// What is asked for; `cx` is woken when that changes.
    pub(crate) fn command(&self, cx: &TaskContext<'_>) -> Command {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        self.command.get()
    }

    /// Has every call ask for its leave again, and the connection look at its caller's certificate.
    pub(crate) fn recheck(&self) {
        self.recheck_trust();
        self.open.borrow().wake();
    }

    /// Has the connection look at its caller's certificate. Its calls look when they are polled, and need not be woken: if it proves
    /// nothing any more, [`Link::distrust`] wakes them.
    pub(crate) fn recheck_trust(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// Takes the leave of every call: the caller's certificate proves nothing any more.
    pub(crate) fn distrust(&self) {
        self.distrusted.set(true);
        self.recheck();
    }

    pub(crate) fn is_distrusted(&self) -> bool {
        self.distrusted.get()
    }

    /// A number that is another one after each [`Link::recheck`].
    pub(crate) fn change(&self) -> u32 {
        self.changes.get()
    }

    /// A call that needs leave has begun; its place, for [`Link::leave`].
    pub(crate) fn enter(&self, task: &Waker) -> usize {
        self.open.borrow_mut().enter(task)
    }

    /// It has ended.
    pub(crate) fn leave(&self, place: usize) {
        self.open.borrow_mut().leave(place);
    }

    /// Whether the sidecar has no more time for calls.
    pub(crate) fn is_ending(&self) -> bool {
        self.command.get() >= Command::End
    }

    /// Notes a stream that its caller reset before it was answered; `false` when there were too many.
    pub(crate) fn note_reset(&self, now: Nanos) -> bool {
        self.resets.borrow_mut().take(now)
    }
}

/// Tasks, each at a place of its own. Places are used again, so that a call takes no memory for its own.
#[derive(Debug, Default)]
struct Places {
    tasks: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Places {
    fn enter(&mut self, task: &Waker) -> usize {
        match self.free.pop() {
            Some(place) => {
                self.tasks[place] = Some(task.clone());
                place
            }
            None => {
                self.tasks.push(Some(task.clone()));
                self.tasks.len() - 1
            }
        }
    }

    fn leave(&mut self, place: usize) {
        self.tasks[place] = None;
        self.free.push(place);
    }

    fn wake(&self) {
        self.tasks.iter().flatten().for_each(Waker::wake_by_ref);
    }
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
struct ResetBucket {
    per_second: u32,
    tokens: f64,
    stamp: Nanos,
}

impl ResetBucket {
    fn new(per_second: u32, now: Nanos) -> Self {
        Self { per_second, tokens: f64::from(per_second), stamp: now }
    }

    fn take(&mut self, now: Nanos) -> bool {
        let rate = f64::from(self.per_second);
        let refill = now.saturating_sub(self.stamp) as f64 / 1e9 * rate;
        self.stamp = now;
        self.tokens = (self.tokens + refill).min(rate) - 1.0;
        self.tokens >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_allowed_at_their_rate_and_not_above() {
        let mut bucket = ResetBucket::new(100, 1);
        assert_eq!((0..200).filter(|_| bucket.take(1)).count(), 100);
        let mut bucket = ResetBucket::new(100, 1);
        let every_ten_ms = (0..10_000).map(|i| 1 + i * 10_000_000);
        assert!(every_ten_ms.into_iter().all(|now| bucket.take(now)));
    }
}
