//! What each key of an issued identity changes; `proxy/tests/keys.rs` has those of files.

use bench::wait::until;

use crate::ground::Ground;

#[tokio::test]
async fn the_token_decides_whose_certificate_is_signed_and_is_read_anew_each_time() {
    let ground = Ground::new("");
    let control = ground.control(None).await;
    let member = ground.caller("caller", control.bound.ads, "").await;
    ground.mesh(&[]);
    member.is_ready().await;
    let shown = member.identity().await;
    assert_eq!(
        (&shown["source"], &shown["from"], &shown["state"]),
        (&"control".into(), &"ca".into(), &"ok".into())
    );
    assert_eq!(shown["spiffe_id"], "spiffe://cluster.local/ns/shop/sa/caller");
    assert!(
        shown["certificate"]["serial"].is_string() && shown["roots"][0]["not_after_unix_seconds"].is_u64()
    );
    for certificate in ["leaf", "issuer", "root"] {
        let labels = [("certificate", certificate)];
        let ends = member.metric("outrigger_certificate_expiry_timestamp_seconds", &labels).await;
        assert!(ends > 0.0, "{certificate}");
    }

    let mut stranger = ground.caller("stranger", control.bound.ads, "").await;
    stranger.write("token", &ground.token("somebody"));
    stranger.restart().await;
    until("it is refused", async || {
        stranger.metric("outrigger_identity_failures_total", &[("reason", "refused")]).await > 0.0
    })
    .await;
    let (status, why) = stranger.readiness().await;
    assert_eq!((status, why.starts_with("no identity yet: ")), (503, true), "{why}");
    stranger.write("token", "");
    stranger.write("token", &ground.token("caller"));
    stranger.is_ready().await;
}
