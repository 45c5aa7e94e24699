//! Attempts that end while they wait: spans and metrics say the same of them.

use bench::call::CallSpec;
use bench::client::Client;
use bench::otlp::Collector;
use bench::wait::until;
use tokio::net::TcpListener;

use crate::pair::{ANY, ECHO, Site, UNARY, mesh, metric};

#[tokio::test]
async fn an_attempt_that_ends_while_it_waits_for_a_connection_is_counted_as_what_its_span_says() {
    // Accepts in the kernel, and never speaks TLS.
    let silent = TcpListener::bind(ANY).await.expect("a listener");
    let endpoint = silent.local_addr().expect("an address");
    for (policies, timeout, outcome, reason) in
        [("", "200m", "abandoned", "deadline"), ("    stream: {idle: 200ms}", "1M", "never_sent", "idle")]
    {
        let collector = Collector::start().await.expect("a collector");
        let mut site = Site::new();
        site.variables.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
        site.variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()));
        let policies = format!("    upstream: {{connect_timeout: 20s}}\n{policies}");
        let caller = site.caller(&mesh(&[endpoint], &policies), "").await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", timeout);
        client.unary_with(spec, b"ping").await.expect("a call");
        until("a span", async || collector.spans().len() == 1).await;
        let [(_, attempt)] = &collector.spans()[0].events[..] else { panic!("one attempt") };
        assert_eq!((&attempt["outrigger.outcome"][..], &attempt["outrigger.reason"][..]), (outcome, reason));
        for other in ["answered", "never_sent", "refused", "broken", "abandoned"] {
            let counted = metric(&caller, "outrigger_attempts_total", &[("outcome", other)]).await;
            assert_eq!(counted, u64::from(other == outcome), "{other}");
        }
    }
}
