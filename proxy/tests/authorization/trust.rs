//! What a change of roots does to those who are here already.

use std::time::Instant;

use bench::certs::Ca;
use bench::wait::{until, within};

use crate::kit::{ENDED_WITHIN, PERMISSION_DENIED, Site, echoes, id, stream};

#[tokio::test]
async fn a_root_that_goes_takes_its_callers_along_and_nobody_else() {
    let site = Site::start("{authorization: [{allow: {from: ['*']}}]}").await;
    let other = Ca::new("cluster.local");
    let both = format!("{}{}", site.ca.bundle_pem(), other.bundle_pem());
    site.trust(&both).await;
    let (ours, theirs) = (site.client(&id("orders")).await, site.client_of(&other, &id("orders")).await);
    let (mut kept, mut first) = (stream(&ours, &[]).await, stream(&theirs, &[]).await);
    let second = stream(&theirs, &[]).await;
    // A root more changes nothing.
    let third = Ca::new("cluster.local");
    site.trust(&format!("{both}{}", third.bundle_pem())).await;
    echoes(&mut first).await;
    echoes(&mut kept).await;
    site.trust(site.ca.bundle_pem()).await;
    let changed = Instant::now();
    for call in [first, second] {
        let outcome = within(ENDED_WITHIN, "the end of a call of a root that is gone", call.finish()).await;
        assert_eq!(outcome.grpc_status, PERMISSION_DENIED, "{outcome:?}");
        assert!(outcome.message.contains("no longer leads to a root"), "{outcome:?}");
    }
    within(ENDED_WITHIN, "the end of their connection", theirs.ended()).await;
    println!("all ended after {:?}", changed.elapsed());
    echoes(&mut kept).await;
    kept.half_close();
    assert!(kept.finish().await.is_ok());
    assert!(ours.is_open());
    assert_eq!(site.metric("outrigger_calls_revoked_total", &[("reason", "trust")]).await, 2.0);
    until("the connection is counted", async || {
        site.metric("outrigger_connections_distrusted_total", &[]).await == 1.0
    })
    .await;
}
