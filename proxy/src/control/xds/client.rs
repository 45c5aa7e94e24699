//! The client: keeps a stream to one control plane open, takes what comes, and shows the newest set that is whole.
//!
//! Whatever the other side does, calls go by what was good last: an answer is taken resource by resource, a set is shown
//! only when every listener in it has what it names, and all that can be asked of memory and time has a bound.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::mem::replace;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use files::Reports;
use tokio::sync::watch;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, sleep_until};
use xds::Kind;

use crate::control::xds::backoff::{Backoff, GOOD};
use crate::control::xds::book::{Book, Outcome};
use crate::control::xds::connect::Way;
use crate::control::xds::counts::Counts;
use crate::control::xds::held::Held;
use crate::control::xds::judge::judge;
use crate::control::xds::keepalive::{INTERVAL, INTERVAL_PATIENT, Keepalive};
use crate::control::xds::line::{BOTH_LINES, Line, Renewal};
use crate::control::xds::lost::{Lost, Reason};
use crate::control::xds::machine::Machine;
use crate::control::xds::node::Me;
use crate::control::xds::pace::Pace;
use crate::control::xds::patience::{PATIENCE, Patience};
use crate::control::xds::settings::{Address, Settings};
use crate::control::xds::state::{Connection, Phase, State, Want};
use crate::control::xds::wire::Answer;
use crate::failure::clip;

/// Between two sets that are shown, at least.
const PUBLISH_APART: Duration = Duration::from_millis(50);
/// Sets that take long to choose are chosen less often: so many times as long lies between two of them, but no longer than
/// this.
const PUBLISH_SHARE: u32 = 10;
const PUBLISH_APART_MAX: Duration = Duration::from_secs(1);
/// What is asked for by name and has not been answered by then, after the first list, is not waited for.
const FIRST_SET_MAX: Duration = Duration::from_secs(2);
/// Longer answers are read away from the control thread.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// Refused resources of one answer that are told one by one.
const NEWS_MAX: usize = 5;
/// Ends that are told until a connection has been good for long; `/config` and the metrics show them all.
const TOLD_MAX: usize = 16;
/// Of a type that is not one of ours, so much is repeated.
const WORDS_BYTES_MAX: usize = 200;

/// The client of a control plane.
pub(crate) struct Client {
    settings: Settings,
    pub(crate) patience: Patience,
    me: Me,
    way: Arc<Way>,
    book: Book,
    backoff: Backoff,
    wants: watch::Receiver<Want>,
    state: watch::Sender<State>,
    counts: Arc<Counts>,
    reports: Reports,
    /// Ends that people were told of, until a connection has been good for long.
    told: BTreeSet<String>,
    /// The last that they were told was an end.
    told_lost: bool,
    /// They were told that something comes that nobody asked for.
    told_unasked: bool,
    /// Between two PINGs.
    ping_every: Duration,
    /// Something has come since the last set was shown.
    dirty: bool,
    published: Option<Instant>,
    /// How long it took to choose the last set.
    chosen_in: Duration,
    /// When the first list of listeners came.
    listed: Option<Instant>,
}

/// The line that a second one is to take the place of, while that has not answered.
struct Before {
    line: Line,
    machine: Machine,
    keepalive: Keepalive,
    until: Instant,
}

/// The other end of a [`Client`].
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) state: watch::Receiver<State>,
    pub(crate) want: watch::Sender<Want>,
    pub(crate) counts: Arc<Counts>,
}

impl Client {
    /// A client that has `held` already, from a cache, and does nothing before [`Client::run`].
    pub(crate) fn new(settings: Settings, me: Me, way: Way, held: Held, reports: Reports) -> (Self, Link) {
        let (state, seen) = watch::channel(State { held: held.clone(), ..State::default() });
        let (want, wants) = watch::channel(Want::default());
        let counts = Arc::new(Counts::default());
        let link = Link { state: seen, want, counts: counts.clone() };
        let client = Self {
            book: Book::new(&settings.services, held),
            settings,
            patience: PATIENCE,
            me,
            way: Arc::new(way),
            backoff: Backoff::default(),
            wants,
            state,
            counts,
            reports,
            told: BTreeSet::new(),
            told_lost: false,
            told_unasked: false,
            ping_every: INTERVAL,
            dirty: false,
            published: None,
            chosen_in: Duration::ZERO,
            listed: None,
        };
        (client, link)
    }

    /// Keeps connected for as long as the process lives.
    pub(crate) async fn run(mut self) {
        let count = self.settings.addresses.len();
        let mut next = fastrand::usize(..count.max(1));
        while let Some(to) = self.settings.addresses.get(next).cloned() {
            self.show(Phase::Connecting, &to, None);
            self.way.identified(&to).await;
            let mut answered: Option<Instant> = None;
            let Err(lost) = self.attempt(&to, &mut answered).await;
            // What was taken before the end is good.
            self.publish();
            let lived = answered.map(|since| since.elapsed());
            let wait = self.backoff.ended(lived, count, fastrand::u64(..));
            self.counts.lose(lost.reason);
            if lost.too_many_pings {
                self.ping_every = INTERVAL_PATIENT;
            }
            self.tell_lost(&to, &lost, lived);
            self.show(Phase::Waiting, &to, Some(&lost));
            self.way.renewed_within(wait).await;
            next = (next + 1) % count;
        }
    }

    /// One connection, from the first try to its end.
    async fn attempt(&mut self, to: &Address, answered: &mut Option<Instant>) -> Result<Infallible, Lost> {
        let (way, protocol, patience) = (&self.way, self.settings.protocol, self.patience);
        // A part of a first set that an earlier connection brought says nothing of what this one leaves out.
        if !self.state.borrow().synced {
            self.listed = None;
        }
        let mut renewal = Renewal::new(way.clone(), to.clone(), protocol, patience);
        let mut line = Line::open(way.clone(), to.clone(), protocol, patience).await?;
        let first_answer = patience.first_answer;
        let hung = || Lost::new(Reason::Hung, format!("it does not answer within {first_answer:?}"));
        let mut hung_at = Some(Instant::now() + first_answer);
        let mut keepalive = Keepalive::new(line.open.ping.take(), self.ping_every);
        let mut before: Option<Before> = None;
        let mut machine = Machine::new(self.settings.protocol);
        let mut want = self.wants.borrow_and_update().clone();
        self.book.want(&want.hosts);
        line.outgoing.push(machine.begin(&self.book, self.me.node(&want)));
        let mut pace = Pace::new(Instant::now());
        loop {
            let Line { outgoing, incoming, .. } = &mut line;
            let (now, is_read) = (Instant::now(), outgoing.is_done());
            let ready_at = pace.ready_at(now);
            let publish_at = self.publish_at();
            let conclude_at = machine.due();
            let going = tokio::select! {
                sent = outgoing.flush(), if !is_read => sent,
                message = incoming.next(), if is_read && ready_at <= now => 'read: {
                    let message = match message {
                        Ok(message) => message,
                        Err(lost) => break 'read Err(lost),
                    };
                    self.counts.received_bytes.add(incoming.bytes());
                    pace.take(Instant::now());
                    if pace.ready_at(Instant::now()) > Instant::now() {
                        self.counts.paced.add(1);
                    }
                    keepalive.heard();
                    hung_at = None;
                    if before.take().is_some() {
                        self.counts.connected.add(1);
                    }
                    let noted = self.take(&mut machine, to, message, answered).await?;
                    outgoing.push(noted.into_iter().chain(machine.follow(&self.book)));
                    // Answers that are here already must not keep the control thread.
                    yield_now().await;
                    Ok(())
                },
                Ok(()) = self.wants.changed(), if is_read => {
                    let now = self.wants.borrow_and_update().clone();
                    self.book.want(&now.hosts);
                    if (&now.endpoints, &now.turned_down) != (&want.endpoints, &want.turned_down) {
                        outgoing.push([machine.announce(self.me.node(&now))]);
                    }
                    want = now;
                    outgoing.push(machine.follow(&self.book));
                    self.dirty = true;
                    Ok(())
                }
                () = sleep_until(ready_at), if ready_at > now => Ok(()),
                () = at(publish_at) => {
                    self.publish();
                    outgoing.push(machine.follow(&self.book));
                    Ok(())
                }
                () = at(conclude_at) => {
                    self.book.remove(Kind::Listener, machine.conclude(Instant::now()));
                    self.dirty = true;
                    Ok(())
                }
                second = renewal.line(), if is_read && before.is_none() => {
                    let first = replace(&mut line, second);
                    let pinged = Keepalive::new(line.open.ping.take(), self.ping_every);
                    before = Some(Before {
                        line: first,
                        machine: replace(&mut machine, Machine::new(protocol)),
                        keepalive: replace(&mut keepalive, pinged),
                        until: Instant::now() + BOTH_LINES,
                    });
                    hung_at = Some(Instant::now() + first_answer);
                    line.outgoing.push(machine.begin(&self.book, self.me.node(&want)));
                    Ok(())
                }
                () = at(before.as_ref().map(|before| before.until)) => {
                    before = None;
                    Ok(())
                }
                lost = keepalive.missing() => Err(lost),
                () = at(hung_at) => Err(hung()),
            };
            let Err(lost) = going else { continue };
            // A second line that comes to nothing, as where our new certificate is refused, does not end a good one.
            let Some(first) = before.take() else { return Err(lost) };
            (line, machine, keepalive) = (first.line, first.machine, first.keepalive);
            hung_at = answered.is_none().then(|| Instant::now() + first_answer);
            renewal.again();
            line.outgoing.push([machine.announce(self.me.node(&want))]);
            line.outgoing.push(machine.follow(&self.book));
        }
    }

    /// Takes an answer; what is to be said to it, if anything.
    async fn take(
        &mut self,
        machine: &mut Machine,
        to: &Address,
        message: Bytes,
        answered: &mut Option<Instant>,
    ) -> Result<Option<Bytes>, Lost> {
        let garbage = |what: String| Lost::new(Reason::Garbage, what);
        let read = machine.reader();
        let answer =
            away(message.len(), move || read(message)).await.and_then(|read| read).map_err(garbage)?;
        let now = Instant::now();
        self.counts.hear(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        if answered.is_none() {
            *answered = Some(now);
            self.counts.connected.add(1);
            self.greet(to, &answer);
        }
        let Some(kind) = answer.kind() else {
            // A request about it, and a NACK is one, would ask for it.
            self.counts.unasked.add(1);
            if !replace(&mut self.told_unasked, true) {
                let what = clip(&answer.type_url, WORDS_BYTES_MAX);
                self.reports.say(format!("control plane {to}: nobody asked for `{what}`; it is left out"));
            }
            return Ok(None);
        };
        let is_held = self.book.is_held(&answer, kind, machine.by_version());
        let own = self.settings.own.clone();
        let judged = away(answer.bytes(), move || {
            let verdicts = judge(&answer, kind, &own, &is_held);
            (answer, verdicts)
        });
        let (answer, verdicts) = judged.await.map_err(garbage)?;
        let gone = machine.gone(kind, &answer, &self.book, now);
        self.book.remove(kind, gone);
        let outcome = self.book.take(kind, verdicts, SystemTime::now());
        self.counts.answer(kind, !outcome.refused.is_empty());
        self.counts.unasked.add(outcome.unasked);
        self.tell_refused(to, &outcome);
        if kind == Kind::Listener {
            self.listed.get_or_insert(now);
        }
        self.dirty = true;
        Ok(Some(machine.note(kind, &answer, &outcome.refused)))
    }

    /// When the next set is to be shown, if anything may have changed.
    fn publish_at(&self) -> Option<Instant> {
        let apart = (self.chosen_in * PUBLISH_SHARE).clamp(PUBLISH_APART, PUBLISH_APART_MAX);
        let apart = self.published.map_or_else(Instant::now, |published| published + apart);
        let changed = self.dirty.then_some(apart);
        let first = self.listed.filter(|_| !self.state.borrow().synced).map(|listed| listed + FIRST_SET_MAX);
        [changed, first].into_iter().flatten().min()
    }

    /// Shows the newest set that is whole, and what is known of the rest.
    fn publish(&mut self) {
        if std::mem::take(&mut self.dirty) || self.listed.is_some() && !self.state.borrow().synced {
            let began = Instant::now();
            let held = self.book.settle();
            self.published = Some(Instant::now());
            self.chosen_in = began.elapsed();
            let waited = self.listed.is_some_and(|listed| listed.elapsed() >= FIRST_SET_MAX);
            let synced = self.listed.is_some() && (waited || self.book.is_answered());
            let (absent, refused, incomplete) =
                (self.book.absent(), self.book.refused(), self.book.incomplete());
            self.state.send_if_modified(|state| {
                let mut is_news = synced && !state.synced;
                state.synced |= synced;
                if let Some(held) = held {
                    (state.held, state.generation, is_news) = (held, state.generation + 1, true);
                    self.counts.published.add(1);
                }
                if *state.absent != absent {
                    (state.absent, is_news) = (absent.into(), true);
                }
                if *state.refused != *refused {
                    (state.refused, is_news) = (refused.clone().into(), true);
                }
                if *state.incomplete != *incomplete {
                    (state.incomplete, is_news) = (incomplete.clone().into(), true);
                }
                is_news
            });
        }
    }

    /// Shows where the connection is.
    fn show(&self, phase: Phase, to: &Address, lost: Option<&Lost>) {
        let now = SystemTime::now();
        self.state.send_modify(|state| {
            let before = std::mem::take(&mut state.connection);
            state.connection = Connection {
                phase,
                address: to.to_string(),
                since: Some(now),
                identifier: String::new(),
                lost: lost.map(|lost| (now, lost.what.as_str().into())).or(before.lost),
            };
        });
    }

    /// The control plane has answered for the first time over this connection.
    fn greet(&mut self, to: &Address, answer: &Answer) {
        self.show(Phase::Connected, to, None);
        self.state.send_modify(|state| state.connection.identifier.clone_from(&answer.identifier));
        if std::mem::take(&mut self.told_lost) {
            self.reports.say(format!("control plane {to}: connected"));
        }
    }

    /// Tells of an end, but not of the same again and again: a control plane may come and go.
    fn tell_lost(&mut self, to: &Address, lost: &Lost, lived: Option<Duration>) {
        if lived.is_some_and(|lived| lived >= GOOD) {
            self.told.clear();
        }
        // Several addresses take turns, and each may have a reason of its own.
        let what = format!("control plane {to}: {lost}");
        if self.told.len() < TOLD_MAX && !self.told.contains(&what) {
            self.reports.say(format!("{what}; what was in force stays so"));
            self.told.insert(what);
            self.told_lost = true;
        }
    }

    fn tell_refused(&self, to: &Address, outcome: &Outcome) {
        if outcome.news.is_empty() {
            return;
        }
        let mut lines = outcome.news.iter().take(NEWS_MAX).cloned().collect::<Vec<_>>();
        if outcome.news.len() > NEWS_MAX {
            lines.push(format!("and {} more", outcome.news.len() - NEWS_MAX));
        }
        let lines = lines.join("\n");
        self.reports.say(format!("control plane {to}: what cannot be honoured stays as it was:\n{lines}"));
    }
}

/// What comes of work on so many bytes, which is done away from the control thread if they are many.
async fn away<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    spawn_blocking(work).await.map_err(|error| format!("an answer that could not be read: {error}"))
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
