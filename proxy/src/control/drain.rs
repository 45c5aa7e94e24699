//! The way out, so that no call fails that need not.
//!
//! ```text
//! serving --drain--> not ready --lag--> inbound GOAWAY ......SIGTERM......> as below, without the lag
//! serving --SIGTERM--> not ready --lag--> inbound GOAWAY --inbound quiet--> outbound GOAWAY
//!         --all quiet--> closed
//!   at drain.deadline after the lag: calls in flight end UNAVAILABLE, then closed
//!   at a second SIGTERM, during the lag too: gone at once
//! ```
//!
//! Outbound goes on while inbound calls are in flight: an app that finishes its work needs its own calls.

use std::sync::Arc;
use std::time::Duration;

use config::model::Drain;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::context::Shared;
use crate::metrics::calls::Direction;
use crate::metrics::counter::Counter;
use crate::metrics::events::{Events, Side};
use crate::worker::Phase;

/// How often it is asked whether calls are still in flight.
const LOOK: Duration = Duration::from_millis(10);
/// How long calls that were ended may take to say so.
const LAST_WORDS: Duration = Duration::from_millis(1_500);
/// How long after the last call its connections may stay: the second phase of GOAWAY needs a round trip.
const LINGER: Duration = Duration::from_secs(1);

/// What asks for the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// `drain` over the socket.
    Drain,
    /// SIGTERM or SIGINT.
    Terminate,
}

/// How it was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    InOrder,
    /// A second SIGTERM did not wait for the rest.
    AtOnce,
}

/// Waits for a reason to go and sees it through; when it returns, all is closed.
pub(crate) async fn see_out(
    shared: Arc<Shared>,
    drain: Drain,
    asks: &mut mpsc::Receiver<Ask>,
    phase: watch::Sender<Phase>,
) -> Way {
    let Some(first) = asks.recv().await else { return Way::InOrder };
    shared.leave();
    let lag_over = Instant::now() + drain.lag;
    let mut terminated = first == Ask::Terminate;
    // A SIGTERM during the lag of `drain` comes when the app has gone: nothing is left to wait for.
    while Instant::now() < lag_over {
        tokio::select! {
            () = sleep_until(lag_over) => break,
            ask = asks.recv() => match ask {
                Some(Ask::Terminate) if terminated => {
                    phase.send_replace(Phase::Closed);
                    return Way::AtOnce;
                }
                Some(Ask::Terminate) => { terminated = true; break }
                _ => {}
            },
        }
    }
    phase.send_replace(Phase::InboundDraining);
    while !terminated {
        terminated = !matches!(asks.recv().await, Some(Ask::Drain));
    }
    let deadline = Instant::now() + drain.deadline;
    let leave = async {
        let inbound = timeout_at(deadline, quiet(&shared, Direction::Inbound)).await;
        phase.send_replace(Phase::Draining);
        let outbound = timeout_at(deadline, quiet(&shared, Direction::Outbound)).await;
        if inbound.is_err() || outbound.is_err() {
            phase.send_replace(Phase::Ending);
            let last_words = Instant::now() + LAST_WORDS;
            for direction in [Direction::Inbound, Direction::Outbound] {
                let _ = timeout_at(last_words, quiet(&shared, direction)).await;
            }
        }
    };
    let way = tokio::select! {
        () = leave => Way::InOrder,
        () = second_terminate(asks) => Way::AtOnce,
    };
    phase.send_replace(Phase::Closed);
    way
}

/// Returns when SIGTERM or SIGINT comes once more.
pub(crate) async fn second_terminate(asks: &mut mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        if ask == Ask::Terminate {
            return;
        }
    }
    std::future::pending().await
}

/// Ends when no call of a direction is in flight and its connections have closed, or have had their time to.
async fn quiet(shared: &Shared, direction: Direction) {
    let mut idle_since = None;
    loop {
        let sum = |gauge: fn(&Events, Direction) -> u64| -> u64 {
            shared.events.iter().map(|events| gauge(events, direction)).sum()
        };
        let calls = sum(|events, direction| events.calls_in_flight[direction as usize].value());
        let tunnels = sum(|events, direction| events.tunnels[direction as usize].value());
        // Those that have not said anything yet may be about to call.
        let connections = sum(|events, direction| {
            let open = &events.connections[Side::from(direction) as usize];
            events.handshakes[direction as usize].value() + open.iter().map(Counter::value).sum::<u64>()
        });
        if calls == 0 && connections == 0 {
            return;
        }
        let now = Instant::now();
        let since = *idle_since.get_or_insert(now);
        if calls + tunnels > 0 {
            idle_since = None;
        } else if now - since >= LINGER {
            return;
        }
        sleep(LOOK).await;
    }
}
