//! How long the way out takes.

use std::time::{Duration, Instant};

use bench::client::Client;

use crate::kit::{Case, Site, UNAVAILABLE, echo, echoes, open, until};

cases! {
    "sidecar.drain.lag" => inbound_goes_on_for_the_lag,
    "sidecar.drain.deadline" => calls_are_ended_at_the_deadline,
}

async fn inbound_goes_on_for_the_lag(case: &Case) {
    const LAG: Duration = Duration::from_millis(1_500);
    let app = echo("app").await;
    let closes_after = async |site: &Site| {
        let sidecar = site.start().await;
        // A call in flight keeps the process, so that it is the listener that closes.
        let client = sidecar.client().await;
        let _call = open(&client).await;
        let began = Instant::now();
        sidecar.term();
        until("it closes", async || Client::connect(sidecar.inbound(), None).await.is_err()).await;
        began.elapsed()
    };
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar drain lag", "1s500ms");
    let (at_once, later) = tokio::join!(closes_after(&base), closes_after(&changed));
    assert!(later >= LAG, "it closed after {later:?}");
    assert!(at_once < later, "without a lag it closed after {at_once:?}, with one after {later:?}");
}

async fn calls_are_ended_at_the_deadline(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app);
    let changed = case.change(&base, "sidecar drain deadline", "200ms");
    let (mut before, mut after) = (base.start().await, changed.start().await);
    let (kept, ended) = (before.client().await, after.client().await);
    let (mut kept, mut ended) = (open(&kept).await, open(&ended).await);
    before.term();
    after.term();
    assert!(ended.recv().await.is_none());
    let outcome = ended.finish().await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(after.wait().await.expect("its end").success());

    assert!(echoes(&mut kept).await, "with an hour left, the call goes on");
    assert!(kept.finish().await.is_ok());
    assert!(before.wait().await.expect("its end").success());
}
