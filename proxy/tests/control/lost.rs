//! Control planes that are away.

use bench::wait::until;

use crate::kit::{Site, caller};

#[tokio::test]
async fn of_each_address_it_is_told_once_that_nobody_is_there() {
    let two = caller(([127, 0, 0, 1], 1).into(), "").replace("[\"", "[\"http://127.0.0.1:2\", \"");
    let site = Site::start(&two, tempfile::tempdir().expect("a folder")).await;
    until("each was tried more than once", async || {
        site.metric("outrigger_control_losses_total", &[("reason", "connect")]).await >= 5.0
    })
    .await;
    let stderr = site.sidecar.stderr();
    for port in [1, 2] {
        let told = format!("control plane http://127.0.0.1:{port}: ");
        assert_eq!(stderr.matches(&told).count(), 1, "{stderr}");
    }
}
