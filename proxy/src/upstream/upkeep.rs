//! When a connection is to be retired or given up: age, idleness, PINGs and the certificates of both sides, all on
//! one timer.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use config::model::Upstream;
use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use crate::tls::expiry::{Expiry, Now, Stage};

/// An idle connection is looked at this many times per idle timeout, which is how exact the timeout is.
const IDLE_LOOKS: u32 = 4;

/// How a connection is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) in_flight: usize,
    /// Since it was opened.
    pub(crate) calls: u32,
}

/// Why this side closed a connection whose calls had not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// The sidecar has no more time.
    ShuttingDown,
    /// The peer has left a PING unanswered.
    Silent,
    /// The peer's certificate has expired, or ours.
    Expired,
    /// The peer's certificate leads to no root any more that is trusted.
    Distrusted,
}

/// What upkeep has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Retire,
    Lost,
    GiveUp(GivenUp),
}

/// What is due when.
pub(crate) struct Upkeep {
    settings: Upstream,
    retire_at: Instant,
    /// By the certificates that were shown.
    expiry: Option<Expiry>,
    /// When that is looked at.
    expiry_at: Option<Instant>,
    idle_at: Instant,
    idle_looks: u32,
    calls_seen: u32,
    ping: Option<PingPong>,
    ping_at: Instant,
    /// When the answer to the PING under way is due.
    pong_by: Option<Instant>,
    /// The next PING goes out whether calls are open or not.
    doubted: bool,
}

impl Upkeep {
    /// For a connection that opens now and may reach `age`.
    pub(crate) fn new(
        settings: Upstream,
        age: Duration,
        expiry: Option<Expiry>,
        ping: Option<PingPong>,
    ) -> Self {
        let now = Instant::now();
        Self {
            settings,
            retire_at: now + age,
            expiry,
            expiry_at: expiry.map(|_| now),
            idle_at: now + settings.idle_timeout / IDLE_LOOKS,
            idle_looks: 0,
            calls_seen: 0,
            ping,
            ping_at: now + settings.keepalive.interval,
            pong_by: None,
            doubted: false,
        }
    }

    /// The peer has been silent where it should not: it is asked at once whether it is there, if it may be asked.
    pub(crate) fn doubt(&mut self, timer: Pin<&mut Sleep>) {
        if self.ping.is_some() && self.pong_by.is_none() {
            self.doubted = true;
            self.ping_at = Instant::now();
            timer.reset(self.ping_at);
        }
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Instant {
        let next = self.retire_at.min(self.idle_at);
        let next = self.expiry_at.map_or(next, |at| next.min(at));
        match (&self.ping, self.pong_by) {
            (None, _) => next,
            (Some(_), None) => next.min(self.ping_at),
            (Some(_), Some(pong_by)) => next.min(pong_by),
        }
    }

    /// Looks at what is due; `timer` wakes the task for the next time.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, usage: Usage) -> Verdict {
        if self.pong_by.is_some()
            && let Some(ping) = &mut self.ping
            && let Poll::Ready(answer) = ping.poll_pong(cx)
        {
            if answer.is_err() {
                return Verdict::Lost;
            }
            self.pong_by = None;
        }
        while timer.as_mut().poll(cx).is_ready() {
            match self.due(Instant::now(), usage) {
                Verdict::Keep => {}
                verdict => {
                    // To be polled again, so that what is due later is seen.
                    timer.as_mut().reset(self.next());
                    return verdict;
                }
            }
            timer.as_mut().reset(self.next());
            // The PING just sent must be polled for its answer once, so that we are woken by it.
            if self.pong_by.is_some()
                && let Some(ping) = &mut self.ping
                && ping.poll_pong(cx).is_ready()
            {
                self.pong_by = None;
            }
        }
        Verdict::Keep
    }

    fn due(&mut self, now: Instant, usage: Usage) -> Verdict {
        if let Some(expiry) = self.expiry.filter(|_| self.expiry_at.is_some_and(|at| at <= now)) {
            let (stage, again) = expiry.look(Now { steady: now, ..Now::read() });
            self.expiry_at = Some(again);
            match stage {
                Stage::Good => {}
                Stage::Leaving => self.retire_at = self.retire_at.min(now),
                Stage::Over => return Verdict::GiveUp(GivenUp::Expired),
            }
        }
        if self.pong_by.is_some_and(|by| by <= now) {
            return Verdict::GiveUp(GivenUp::Silent);
        }
        if self.retire_at <= now {
            // Once is enough; the calls it carries go on.
            self.retire_at = now + Duration::from_secs(86_400 * 365);
            return Verdict::Retire;
        }
        if self.idle_at <= now {
            let used = usage.in_flight > 0 || usage.calls != self.calls_seen;
            self.calls_seen = usage.calls;
            self.idle_looks = if used { 0 } else { self.idle_looks + 1 };
            self.idle_at = now + self.settings.idle_timeout / IDLE_LOOKS;
            if self.idle_looks >= IDLE_LOOKS {
                return Verdict::Retire;
            }
        }
        if self.ping_at <= now && self.pong_by.is_none() {
            self.ping_at = now + self.settings.keepalive.interval;
            if (std::mem::take(&mut self.doubted) || usage.in_flight > 0)
                && let Some(ping) = &mut self.ping
                && ping.send_ping(Ping::opaque()).is_ok()
            {
                self.pong_by = Some(now + self.settings.keepalive.timeout);
            }
        }
        Verdict::Keep
    }
}
