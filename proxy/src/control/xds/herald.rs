//! Announces our endpoints to one control plane, where there are several.
//!
//! Each of them tells its own clients which endpoints there are, and keeps nothing. So all must know of ours, and not only
//! the one that we have the mesh from. A herald asks for nothing; it is there for as long as there is something to announce.
//!
//! ```text
//! nothing to announce --announce--> connected --withdraw--> connected, announces nothing
//!                        ^               | end
//!                        '---back-off----'
//! ```

use std::mem::replace;
use std::sync::Arc;

use files::Reports;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::control::xds::backoff::{Backoff, GOOD};
use crate::control::xds::connect::Way;
use crate::control::xds::delta::Delta;
use crate::control::xds::keepalive::{INTERVAL, Keepalive};
use crate::control::xds::line::{BOTH_LINES, Line, Renewal};
use crate::control::xds::lost::{Lost, Reason};
use crate::control::xds::machine::frame;
use crate::control::xds::node::Me;
use crate::control::xds::pace::Pace;
use crate::control::xds::patience::PATIENCE;
use crate::control::xds::settings::{Address, Protocol};
use crate::control::xds::state::Want;
use crate::control::xds::wire::read_delta;

/// Announces at one address.
pub(crate) struct Herald {
    pub(crate) to: Address,
    pub(crate) me: Me,
    pub(crate) way: Arc<Way>,
    pub(crate) wants: watch::Receiver<Want>,
    pub(crate) reports: Reports,
}

impl Herald {
    /// Announces for as long as the process lives.
    pub(crate) async fn run(mut self) {
        let (mut backoff, mut told) = (Backoff::default(), None);
        while self.wants.wait_for(|want| !want.endpoints.is_empty()).await.is_ok() {
            self.way.identified(&self.to).await;
            let mut begun = None;
            let Err(lost) = self.attempt(&mut begun).await else { return };
            let lived = begun.map(|begun: Instant| begun.elapsed());
            if lived.is_some_and(|lived| lived >= GOOD) {
                told = None;
            }
            if told.as_ref() != Some(&lost.what) {
                let to = &self.to;
                self.reports.say(format!("control plane {to}: our endpoint is not announced there: {lost}"));
                told = Some(lost.what.clone());
            }
            self.way.renewed_within(backoff.ended(lived, 1, fastrand::u64(..))).await;
        }
    }

    /// One connection, to its end; `Ok`: nobody announces anything any more. It need not answer: there was no question.
    async fn attempt(&mut self, begun: &mut Option<Instant>) -> Result<(), Lost> {
        // Whatever way the mesh comes: a request of the incremental one need not subscribe to anything.
        let (way, to) = (&self.way, &self.to);
        let mut renewal = Renewal::new(way.clone(), to.clone(), Protocol::Delta, PATIENCE);
        let mut line = Line::open(way.clone(), to.clone(), Protocol::Delta, PATIENCE).await?;
        let mut keepalive = Keepalive::new(line.open.ping.take(), INTERVAL);
        *begun = Some(Instant::now());
        let mut want = self.wants.borrow_and_update().clone();
        line.outgoing.push([frame(&Delta::herald(self.me.node(&want)))]);
        let mut pace = Pace::new(Instant::now());
        // The line that a second one has taken the place of, until that has surely announced us.
        let mut before: Option<(Line, Instant)> = None;
        loop {
            let Line { outgoing, incoming, .. } = &mut line;
            let gone_at = before.as_ref().map(|(_, until)| *until);
            let (now, is_read) = (Instant::now(), outgoing.is_done());
            let ready_at = pace.ready_at(now);
            tokio::select! {
                sent = outgoing.flush(), if !is_read => sent?,
                message = incoming.next(), if is_read && ready_at <= now => {
                    let answer = read_delta(message?).map_err(|what| Lost::new(Reason::Garbage, what))?;
                    pace.take(now);
                    keepalive.heard();
                    // Nothing was asked for, and what comes all the same changes nothing.
                    outgoing.push([frame(&Delta::note(&answer.type_url, &answer.nonce, None))]);
                }
                changed = self.wants.changed(), if is_read => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let newest = self.wants.borrow_and_update().clone();
                    let is_news = newest.endpoints != want.endpoints;
                    want = newest;
                    if is_news {
                        outgoing.push([frame(&Delta::herald(self.me.node(&want)))]);
                    }
                }
                () = sleep_until(ready_at), if ready_at > now => {}
                // Our certificate has been renewed; the other side ends a connection when the one expires that it was shown.
                second = renewal.line(), if is_read && before.is_none() => {
                    before = Some((replace(&mut line, second), Instant::now() + BOTH_LINES));
                    keepalive = Keepalive::new(line.open.ping.take(), INTERVAL);
                    line.outgoing.push([frame(&Delta::herald(self.me.node(&want)))]);
                }
                () = sleep_until(gone_at.unwrap_or(now)), if gone_at.is_some() => before = None,
                lost = keepalive.missing() => return Err(lost),
            }
        }
    }
}
