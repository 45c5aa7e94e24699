//! PINGs on a stream that is silent, so that a control plane that is gone without a word is noticed.
//!
//! Servers of gRPC allow one PING in five minutes on a stream that carries nothing unless they are told otherwise, and
//! answer the third too many with GOAWAY (gRFC A8). Whoever does so is asked less often from then on.

use std::future::poll_fn;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep_until};

use crate::control::xds::lost::{Lost, Reason};

/// Silence after which we ask.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);
/// Silence after which we ask a control plane that found that too often.
pub(crate) const INTERVAL_PATIENT: Duration = Duration::from_secs(300);
/// How long the answer may take.
pub(crate) const PONG_MAX: Duration = Duration::from_secs(10);

/// When to ask, and whether an answer is due.
pub(crate) struct Keepalive {
    ping: Option<PingPong>,
    interval: Duration,
    ask_at: Instant,
    pong_by: Option<Instant>,
}

impl Keepalive {
    pub(crate) fn new(ping: Option<PingPong>, interval: Duration) -> Self {
        Self { ping, interval, ask_at: Instant::now() + interval, pong_by: None }
    }

    /// Something came in.
    pub(crate) fn heard(&mut self) {
        self.ask_at = Instant::now() + self.interval;
    }

    /// Asks when it is time to; comes back only when an answer is missing. It may be cancelled and begun anew.
    pub(crate) async fn missing(&mut self) -> Lost {
        let Some(ping) = &mut self.ping else { return std::future::pending().await };
        loop {
            match self.pong_by {
                None => {
                    sleep_until(self.ask_at).await;
                    if ping.send_ping(Ping::opaque()).is_ok() {
                        self.pong_by = Some(Instant::now() + PONG_MAX);
                    }
                    self.ask_at = Instant::now() + self.interval;
                }
                Some(by) => {
                    tokio::select! {
                        pong = poll_fn(|cx| ping.poll_pong(cx)) => {
                            self.pong_by = None;
                            if pong.is_err() {
                                // The stream tells what has happened.
                                return std::future::pending().await;
                            }
                        }
                        () = sleep_until(by) => {
                            let what = format!("a PING was left unanswered for {PONG_MAX:?}");
                            return Lost::new(Reason::Silent, what);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_answers_is_kept_and_who_does_not_is_given_up_within_forty_seconds() {
        let (near, far) = tokio::io::duplex(64 << 10);
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            tokio::select! {
                _ = connection.accept() => {}
                // It stands still, and its socket stays open.
                () = stopped.notified() => std::future::pending().await,
            }
        });
        let (_sender, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut keepalive = Keepalive::new(connection.ping_pong(), INTERVAL);
        tokio::spawn(connection);
        let quiet = timeout(Duration::from_secs(600), keepalive.missing()).await;
        assert!(quiet.is_err(), "twenty PINGs were answered: {quiet:?}");
        stop.notify_one();
        let began = Instant::now();
        let lost = keepalive.missing().await;
        assert_eq!(lost.reason, Reason::Silent);
        assert!(began.elapsed() <= INTERVAL + PONG_MAX, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_answers_come() {
        let (near, _far) = tokio::io::duplex(64 << 10);
        let (_sender, mut connection) = h2::client::handshake(near).await.unwrap();
        let mut keepalive = Keepalive::new(connection.ping_pong(), INTERVAL);
        for _ in 0..60 {
            // Nobody is there to answer a PING: one would be missed.
            assert!(timeout(Duration::from_secs(10), keepalive.missing()).await.is_err());
            keepalive.heard();
        }
        assert_eq!(keepalive.missing().await.reason, Reason::Silent);
    }
}
