//! A thousand sockets that say nothing.

use std::time::{Duration, Instant};

use bench::wait::until;
use tokio::task::JoinSet;

use crate::neighbour::Neighbour;
use crate::wire::Wire;
use crate::{HANDSHAKES, REFUSED, Strict, counts};

const SILENT: u64 = 1_000;
const TIMEOUT: Duration = Duration::from_secs(3);
/// How much later than that the last is closed at the latest.
const SLACK: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_thousand_silent_sockets_are_all_closed_and_harm_nobody() {
    let strict = Strict::start("limits: {handshake_timeout: 3s, handshakes: 256}").await;
    let settled = Neighbour::settled(strict.callee.inbound(), Some(strict.good())).await;
    let before = strict.callee.rss_bytes().expect("a process");
    let began = Instant::now();
    let mut closing = JoinSet::new();
    for number in 0..SILENT {
        // However many wait in silence, who speaks gets in at once.
        if number % 250 == 249 {
            Neighbour::settled(strict.callee.inbound(), Some(strict.good())).await.unharmed().await;
        }
        let mut wire = Wire::connect(strict.callee.inbound()).await;
        closing.spawn(async move {
            assert!(wire.rest("a silent socket").await.is_empty(), "nothing is said to who says nothing");
        });
    }
    while let Some(closed) = closing.join_next().await {
        closed.expect("each is closed");
    }
    let took = began.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");

    // The last 256 have their time; the others are sent away as more come. A socket is closed a moment before that
    // is counted.
    let refused = async |limit: &str| {
        strict.callee.metrics().await.expect("a scrape").value(REFUSED, &[("limit", limit)]) as u64
    };
    until("each is counted", async || {
        refused("handshakes").await + refused("handshake_timeout").await >= SILENT
    })
    .await;
    let (full, late) = (refused("handshakes").await, refused("handshake_timeout").await);
    assert_eq!(full + late, SILENT);
    let metrics = strict.callee.metrics().await.expect("a scrape");
    assert!(late >= 256, "as many as may shake hands at once had their time: {late}");
    assert_eq!(metrics.value(HANDSHAKES, &[]), 0.0);
    let grown = strict.callee.rss_bytes().expect("a process").saturating_sub(before);
    let calls = settled.unharmed().await;
    println!(
        "{full} refused at once, {late} after {TIMEOUT:?}; {calls} calls meanwhile; {} KiB",
        grown >> 10
    );
    assert!(grown < 64 << 20, "{grown} bytes");

    // And then new callers come in as ever.
    for _ in 0..10 {
        let new = Neighbour::settled(strict.callee.inbound(), Some(strict.good())).await;
        new.unharmed().await;
    }
    counts(&strict.callee, REFUSED, &[], SILENT).await;
}
