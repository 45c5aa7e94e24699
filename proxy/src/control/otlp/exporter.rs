//! Sends spans to a collector by OTLP/gRPC, from the control thread.
//!
//! ```text
//! wait for the first span -> wait for more (delay, or a crowd) -> export
//!    export --again--> back off --> export ...   until the export's time is over: lost
//! told to go: what is under way and what waits, until two seconds are over
//! ```
//!
//! While an export is under way others wait in the queue, and find no place when it is full: workers never wait.

use std::sync::Arc;
use std::time::Duration;

use files::Reports;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::control::otlp::answer::Failure;
use crate::control::otlp::client::Client;
use crate::control::otlp::proto::request;
use crate::control::otlp::settings::Settings;
use crate::record::call::CallRecord;
use crate::record::queue::Outlet;
use crate::record::{Fates, Lost};

/// How long the last spans may take when the sidecar goes; with what it takes to say so it stays below two seconds.
const FLUSH: Duration = Duration::from_millis(1_900);
/// Between two tries of one export, at first and at most.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Between two tries, whatever a collector says.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Between two tries when the sidecar goes.
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// Of one export, before it is compressed: collectors take four MiB unless they are told otherwise.
const REQUEST_BYTES_MAX: usize = 3 << 20;

/// The task that sends spans.
pub(crate) struct Exporter {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Begins to send what comes out of `outlet`.
    pub(crate) fn start(
        settings: Settings,
        client: Client,
        outlet: Outlet,
        fates: Arc<Fates>,
        reports: Reports,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let sending = Sending { settings, client, fates, reports, is_failing: false };
        let stopped = Stop { asked: stopped, end: None };
        Self { stop, task: tokio::spawn(run(sending, outlet, stopped)) }
    }

    /// Sends what waits, within two seconds.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(());
        // The task bounds itself; whoever called this is bounded too, for a machine that stands still.
        let _ = self.task.await;
    }
}

struct Sending {
    settings: Settings,
    client: Client,
    fates: Arc<Fates>,
    reports: Reports,
    /// The last try failed, and that was said.
    is_failing: bool,
}

/// Tells that the sidecar goes, and when the time for the last spans is over.
struct Stop {
    asked: oneshot::Receiver<()>,
    end: Option<Instant>,
}

impl Stop {
    async fn asked(&mut self) {
        if self.end.is_none() {
            let _ = (&mut self.asked).await;
            self.end = Some(Instant::now() + FLUSH);
        }
    }

    async fn over(&mut self) {
        self.asked().await;
        if let Some(end) = self.end {
            sleep_until(end).await;
        }
    }
}

async fn run(mut sending: Sending, mut outlet: Outlet, mut stop: Stop) {
    let mut batch = Vec::with_capacity(sending.settings.batch);
    while stop.end.is_none() {
        tokio::select! {
            () = collect(&mut outlet, &mut batch, &sending.settings) => {}
            () = stop.asked() => break,
        }
        sending.send(&mut batch, &mut stop).await;
    }
    outlet.records.close();
    loop {
        fill(&mut outlet, &mut batch, &sending.settings);
        if batch.is_empty() {
            return;
        }
        if stop.end.is_some_and(|end| Instant::now() >= end) {
            return sending.lose(Lost::Exit, batch.len() + outlet.records.len());
        }
        sending.send(&mut batch, &mut stop).await;
    }
}

/// So many in the queue make a batch, with the one that was taken out of it.
pub(crate) fn crowd(settings: &Settings) -> usize {
    settings.batch.saturating_sub(1).max(1)
}

/// Waits for a span, and for more to go with it.
async fn collect(outlet: &mut Outlet, batch: &mut Vec<Arc<CallRecord>>, settings: &Settings) {
    // What was too much for one export has waited long enough.
    if !batch.is_empty() {
        return fill(outlet, batch, settings);
    }
    match outlet.records.recv().await {
        Some(first) => batch.push(first),
        None => return std::future::pending().await,
    }
    if outlet.records.len() < crowd(settings) {
        // One notice may be left from before; then a batch is small.
        let _ = timeout(settings.delay, outlet.crowded.notified()).await;
    }
    fill(outlet, batch, settings);
}

fn fill(outlet: &mut Outlet, batch: &mut Vec<Arc<CallRecord>>, settings: &Settings) {
    while batch.len() < settings.batch
        && let Ok(record) = outlet.records.try_recv()
    {
        batch.push(record);
    }
}

impl Sending {
    /// Sends a batch, again and again until its time is over; what is too much for one export stays in it.
    async fn send(&mut self, batch: &mut Vec<Arc<CallRecord>>, stop: &mut Stop) {
        let (request, spans) = request(&self.settings.resource, batch, REQUEST_BYTES_MAX);
        self.deliver(&request, spans, stop).await;
        batch.drain(..spans);
    }

    async fn deliver(&mut self, request: &[u8], spans: usize, stop: &mut Stop) {
        let patience = Instant::now() + self.settings.export_timeout;
        let mut backoff = BACKOFF;
        loop {
            let end = stop.end.map_or(patience, |end| end.min(patience));
            let limit = end.saturating_duration_since(Instant::now()).min(self.settings.timeout);
            let done = tokio::select! {
                done = self.client.export(request, limit) => done,
                // What was on its way when the sidecar was told to go may go on for as long as all else may.
                () = stop.over() => Err(Failure::passing("no answer before the end of this sidecar")),
            };
            let failure = match done {
                Ok(partial) => return self.arrived(spans, partial),
                Err(failure) => failure,
            };
            self.say_failing(&failure.what);
            if !failure.again {
                return self.lose(Lost::Refused, spans);
            }
            let next = Instant::now() + pause(failure.after, backoff, fastrand::f64());
            if stop.end.is_none() {
                if next >= patience {
                    return self.lose(Lost::Unavailable, spans);
                }
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = stop.asked() => {}
                }
                backoff = (2 * backoff).min(BACKOFF_MAX);
            }
            if let Some(end) = stop.end {
                // Little time is left: soon, unless the collector asked for more.
                let next = if failure.after.is_some() { next } else { Instant::now() + LAST_PAUSE };
                if next >= end {
                    return self.lose(Lost::Exit, spans);
                }
                sleep_until(next).await;
            }
        }
    }

    fn arrived(&mut self, spans: usize, (rejected, why): (u64, String)) {
        let rejected = rejected.min(spans as u64);
        self.fates.exported.add(spans as u64 - rejected);
        self.lose(Lost::Rejected, rejected as usize);
        if rejected > 0 {
            return self.say_failing(&format!("it rejected {rejected} of {spans} spans: {why}"));
        }
        if self.is_failing {
            self.is_failing = false;
            self.reports.say(format!("traces: {} takes spans again", self.settings.collector));
        }
    }

    fn lose(&self, how: Lost, spans: usize) {
        self.fates.lost[how as usize].add(spans as u64);
    }

    /// Says once that spans do not arrive, until they do.
    fn say_failing(&mut self, what: &str) {
        if !self.is_failing {
            self.is_failing = true;
            let collector = &self.settings.collector;
            self.reports.say(format!(
                "traces: spans do not arrive at {collector}: {what}; calls go on, and what is lost is counted in \
                 outrigger_spans_dropped_total"
            ));
        }
    }
}

/// How long to wait before the next try. `random` is from 0 to 1: sidecars that lost the same collector come back apart.
fn pause(asked: Option<Duration>, backoff: Duration, random: f64) -> Duration {
    asked.unwrap_or_else(|| backoff.mul_f64(0.5 + random / 2.0)).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_tries_are_bounded_below_and_above() {
        let random = |step: u32| f64::from(step) / 100.0;
        let mut backoff = BACKOFF;
        for _ in 0..10 {
            for step in 0..=100 {
                let pause = pause(None, backoff, random(step));
                assert!((PAUSE_MIN..=BACKOFF_MAX).contains(&pause), "{pause:?}");
            }
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
        assert_eq!(pause(Some(Duration::ZERO), BACKOFF, 0.5), PAUSE_MIN, "no loop without a pause");
        assert_eq!(pause(Some(Duration::from_secs(7)), BACKOFF, 0.5), Duration::from_secs(7));
    }
}
