//! Sends spans to a collector by OTLP/gRPC, from the control thread.
//!
//! ```text
//! wait for the first span -> wait for more (delay, or a crowd) -> export
//!    export --again--> back off --> export ...   until the export's time is over: lost
//! ```
//!
//! While an export is under way others wait in the queue, and find no place when it is full: workers never wait.

pub(crate) mod client;
pub(crate) mod proto;
pub(crate) mod settings;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::control::otlp::client::Client;
use crate::control::otlp::proto::request;
use crate::control::otlp::settings::Settings;
use crate::control::report::Reports;
use crate::record::call::CallRecord;
use crate::record::queue::Outlet;
use crate::record::{Fates, Lost};

/// How long the last spans may take when the sidecar goes.
const FLUSH: Duration = Duration::from_secs(2);
/// Between two tries of one export, at first and at most.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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
        Self { stop, task: tokio::spawn(run(sending, outlet, stopped)) }
    }

    /// Sends what waits, within two seconds.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(());
        // The task bounds itself; this is for a machine that stands still.
        let _ = timeout(2 * FLUSH, self.task).await;
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

async fn run(mut sending: Sending, mut outlet: Outlet, mut stopped: oneshot::Receiver<()>) {
    let mut batch = Vec::with_capacity(sending.settings.batch);
    loop {
        tokio::select! {
            () = collect(&mut outlet, &mut batch, &sending.settings) => {}
            _ = &mut stopped => break,
        }
        let done = tokio::select! {
            () = sending.send(&batch) => true,
            _ = &mut stopped => false,
        };
        if !done {
            break;
        }
        batch.clear();
    }
    outlet.records.close();
    let end = Instant::now() + FLUSH;
    loop {
        while batch.len() < sending.settings.batch
            && let Ok(record) = outlet.records.try_recv()
        {
            batch.push(record);
        }
        if batch.is_empty() {
            return;
        }
        let limit = end.saturating_duration_since(Instant::now());
        if limit.is_zero() || !sending.try_once(&batch, limit).await {
            sending.lose(Lost::Exit, batch.len() + outlet.records.len());
            return;
        }
        batch.clear();
    }
}

/// Waits for a span, and for more to go with it.
async fn collect(outlet: &mut Outlet, batch: &mut Vec<Arc<CallRecord>>, settings: &Settings) {
    if batch.is_empty() {
        match outlet.records.recv().await {
            Some(first) => batch.push(first),
            None => return std::future::pending().await,
        }
    }
    if outlet.records.len() + 1 < settings.batch {
        // One notice may be left from before; then a batch is small.
        let _ = timeout(settings.delay, outlet.crowded.notified()).await;
    }
    while batch.len() < settings.batch
        && let Ok(record) = outlet.records.try_recv()
    {
        batch.push(record);
    }
}

impl Sending {
    /// Sends a batch, again and again until its time is over.
    async fn send(&mut self, batch: &[Arc<CallRecord>]) {
        let request = request(&self.settings.resource, batch);
        let end = Instant::now() + self.settings.export_timeout;
        let mut backoff = BACKOFF;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let failure = match self.client.export(&request, self.settings.timeout.min(left)).await {
                Ok(partial) => return self.arrived(batch.len(), partial),
                Err(failure) => failure,
            };
            self.say_failing(&failure.what);
            if !failure.again {
                return self.lose(Lost::Refused, batch.len());
            }
            let pause = failure.after.unwrap_or(backoff.mul_f64(0.5 + fastrand::f64()));
            if Instant::now() + pause >= end {
                return self.lose(Lost::Unavailable, batch.len());
            }
            sleep(pause).await;
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    /// Sends a batch once; `false` if it did not arrive.
    async fn try_once(&mut self, batch: &[Arc<CallRecord>], limit: Duration) -> bool {
        let request = request(&self.settings.resource, batch);
        match self.client.export(&request, limit.min(self.settings.timeout)).await {
            Ok(partial) => self.arrived(batch.len(), partial),
            Err(failure) => {
                self.say_failing(&failure.what);
                return false;
            }
        }
        true
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
