//! An endpoint of weight 0 is out: it is nobody's elsewhere.

use bench::client::Client;
use bench::server::Server;
use bench::wait::soon;

use crate::pair::{ANY, ECHO, Site, UNARY, metric, well};

#[tokio::test]
async fn a_lone_endpoint_that_refused_is_asked_again_though_siblings_of_weight_zero_were_not() {
    let site = Site::new();
    for policy in ["round_robin", "random", "least_request", "peak_ewma"] {
        for before in [true, false] {
            let (one, out) = (server().await, server().await);
            let mut listed = [(one.addr, 1), (out.addr, 0)]
                .map(|(address, weight)| format!("{{address: \"{address}\", tls: none, weight: {weight}}}"));
            if before {
                listed.reverse();
            }
            let mesh = format!(
                "version: 1\nservices:\n  - {{name: shopper, namespace: shop}}\n  - {{name: echo, namespace: shop, \
                 balancing: {{policy: {policy}}}, upstream: {{connect_timeout: 20s}}, endpoints: [{}]}}\n",
                listed.join(", ")
            );
            let caller = site.caller(&mesh, "").await;
            let client = Client::connect(caller.outbound(), None).await.expect("a connection");
            one.script_next("refused");
            well(soon(policy, client.unary(ECHO, UNARY, b"x")).await);
            assert_eq!((one.calls().len(), out.calls().len()), (2, 0), "{policy}");
            for outcome in ["refused", "answered"] {
                let ended = metric(&caller, "outrigger_attempts_total", &[("outcome", outcome)]).await;
                assert_eq!(ended, 1, "{policy}: {outcome}");
            }
        }
    }
}

async fn server() -> Server {
    Server::start(ANY).await.expect("a server")
}
