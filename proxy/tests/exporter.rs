//! The way of spans to a collector that restarts, hangs up, asks for patience, moves, or is somebody else.

mod pair;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bench::certs::{Ca, Leaf, LeafSpec};
use bench::client::Client;
use bench::closed::ClosedPort;
use bench::dns::NameServer;
use bench::otlp::{Answer, Collector};
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::tls::ServerTls;
use bench::wait::{soon, until, within};
use tokio::net::TcpListener;

use crate::pair::{ANY, ECHO, ECHO_ID, Site, UNARY, mesh, metric, well};

/// Longer than any test.
const NEVER: &str = "3600000";
/// What the name of the collector is, where it has one.
const NAME: &str = "collector.example";

/// A caller's sidecar that records, and the service that it calls.
struct Caller {
    client: Client,
    sidecar: Sidecar,
    _service: Server,
    _site: Site,
}

impl Caller {
    async fn start(endpoint: &str, more: &str, variables: &[(&'static str, &str)]) -> Self {
        let mut site = Site::new();
        site.variables.push(("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()));
        site.variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()));
        site.variables.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let tls =
            ServerTls { leaf: site.ca.leaf(ECHO_ID), client_trust: Some(site.ca.bundle_pem().to_owned()) };
        let options = ServerOptions { tls: Some(tls), ..ServerOptions::default() };
        let service = Server::start_with(ANY, options).await.expect("a service");
        // By default two seconds, which a handshake may take on a loaded machine.
        let patient = "    upstream: {connect_timeout: 20s}";
        let sidecar = site.caller(&mesh(&[service.addr], patient), more).await;
        let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
        Self { client, sidecar, _service: service, _site: site }
    }

    async fn call(&self) {
        well(self.client.unary(ECHO, UNARY, b"ping").await);
    }

    async fn exported(&self) -> u64 {
        metric(&self.sidecar, "outrigger_spans_exported_total", &[]).await
    }

    async fn dropped(&self, reason: &str) -> u64 {
        metric(&self.sidecar, "outrigger_spans_dropped_total", &[("reason", reason)]).await
    }

    async fn until_exported(&self, count: u64) {
        until(format!("{count} spans"), async || self.exported().await >= count).await;
    }

    async fn until_said(&self, words: &str) {
        until(format!("`{words}` is said: {}", self.sidecar.stderr()), async || {
            self.sidecar.stderr().contains(words)
        })
        .await;
    }

    /// It is told to go, and goes.
    async fn leave(self) {
        self.sidecar.term();
        self.gone().await;
    }

    /// It was told to go, and goes.
    async fn gone(mut self) {
        drop(self.client);
        // It promises two seconds, and one more for connections that close.
        within(Duration::from_secs(15), "the end", self.sidecar.wait()).await.expect("an end");
    }
}

#[tokio::test]
async fn a_collector_that_closes_what_is_idle_or_restarts_loses_no_span_and_is_no_news() {
    let collector = Collector::start().await.expect("a collector");
    let caller = Caller::start(&collector.url(), "", &[]).await;
    for round in 1..=3 {
        caller.call().await;
        caller.until_exported(round).await;
        collector.hang_up().await;
    }
    assert_eq!((collector.connections(), collector.spans().len()), (3, 3));
    let addr = collector.addr;
    drop(collector);
    let collector = Collector::start_at(addr, None).await.expect("the same port");
    caller.call().await;
    caller.until_exported(4).await;
    assert_eq!(collector.spans().len(), 1);
    assert_eq!(caller.sidecar.stderr(), "", "no call was lost, and nobody need hear of it");
}

#[tokio::test]
async fn the_last_spans_arrive_though_the_connection_was_closed_before() {
    let collector = Collector::start().await.expect("a collector");
    let variables = [("OTEL_BSP_SCHEDULE_DELAY", NEVER), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")];
    let caller = Caller::start(&collector.url(), "", &variables).await;
    caller.call().await;
    caller.call().await;
    caller.until_exported(2).await;
    caller.call().await;
    collector.hang_up().await;
    caller.leave().await;
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn the_last_spans_are_tried_again_until_the_time_for_them_is_over() {
    let collector = Collector::start().await.expect("a collector");
    let caller = Caller::start(&collector.url(), "", &[("OTEL_BSP_SCHEDULE_DELAY", NEVER)]).await;
    caller.call().await;
    collector.set(Answer::Status(14));
    caller.sidecar.term();
    until("a first try", async || !collector.exports().is_empty()).await;
    collector.set(Answer::Well);
    caller.gone().await;
    assert!(collector.exports().len() >= 2, "the first was not taken");
}

#[tokio::test]
async fn a_second_sigterm_does_not_wait_for_the_last_spans() {
    const SOON: Duration = Duration::from_millis(1_200);
    let mut soonest = Duration::MAX;
    // The best of a few: the others tell how busy the machine is.
    for _ in 0..4 {
        let collector = Collector::start().await.expect("a collector");
        collector.set(Answer::Hang);
        let mut caller = Caller::start(&collector.url(), "", &[("OTEL_BSP_SCHEDULE_DELAY", NEVER)]).await;
        caller.call().await;
        drop(caller.client);
        caller.sidecar.term();
        until("the last spans are on their way", async || !collector.exports().is_empty()).await;
        let asked = Instant::now();
        caller.sidecar.term();
        soon("the end", caller.sidecar.wait()).await.expect("an end");
        soonest = soonest.min(asked.elapsed());
        if soonest < SOON {
            break;
        }
    }
    assert!(soonest < SOON, "{soonest:?}, though two seconds may pass");
}

#[tokio::test]
async fn a_collector_that_is_exhausted_is_asked_again_when_it_says_when_and_only_then() {
    let collector = Collector::start().await.expect("a collector");
    collector.set(Answer::Status(8));
    let caller = Caller::start(&collector.url(), "", &[]).await;
    caller.call().await;
    until("the batch is given up", async || caller.dropped("refused").await == 1).await;
    assert_eq!(collector.exports().len(), 1);

    // Longer than it would wait by itself.
    collector.next(Answer::Later(8, 1_200));
    collector.set(Answer::Well);
    caller.call().await;
    caller.until_exported(1).await;
    let exports = collector.exports();
    assert_eq!(exports.len(), 3);
    let waited = exports[2].came - exports[1].came;
    assert!(waited >= Duration::from_millis(1_200), "it waits as it was told: {waited:?}");
}

#[tokio::test]
async fn what_stays_away_for_as_long_as_an_export_may_take_is_given_up_and_counted() {
    let nobody = ClosedPort::take().expect("a port");
    let variables = [("OTEL_BSP_EXPORT_TIMEOUT", "300")];
    let caller = Caller::start(&format!("http://{}", nobody.addr), "", &variables).await;
    caller.call().await;
    until("it is counted", async || caller.dropped("unavailable").await == 1).await;
    caller.until_said("spans do not arrive").await;
}

/// A certificate of the web for `NAME`.
fn named(ca: &Ca) -> Leaf {
    ca.leaf_with(&LeafSpec { names: vec![NAME.to_owned()], ..LeafSpec::default() })
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn a_collectors_name_is_asked_of_our_name_servers_and_all_its_addresses_are_tried() {
    let ca = Ca::new("web.example");
    let tls = ServerTls { leaf: named(&ca), client_trust: None };
    let (silent, refusing) = (IpAddr::from([127, 0, 0, 7]), IpAddr::from([127, 0, 0, 8]));
    // On another address of the loopback its port may be somebody else's.
    let (collector, _silent) = soon("a port that is free on two addresses", async {
        loop {
            let collector = Collector::start_at(ANY, Some(&tls)).await.expect("a collector");
            // Accepts in the kernel, and says nothing.
            if let Ok(listener) = TcpListener::bind((silent, collector.addr.port())).await {
                return (collector, listener);
            }
        }
    })
    .await;
    let servers = NameServer::start().await.expect("a name server");
    servers.point(NAME, &[silent, refusing, collector.addr.ip()], 1);
    let folder = tempfile::tempdir().expect("a folder");
    let roots = write(folder.path(), "roots.crt", ca.bundle_pem());
    // With a dot at its end, as a whole name may be written; the certificate has none.
    let url = format!("https://{NAME}.:{}", collector.addr.port());
    let dns = format!("dns: {{servers: [\"{}\"]}}", servers.addr);
    let variables =
        [("OTEL_EXPORTER_OTLP_CERTIFICATE", roots.as_str()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000")];
    let caller = Caller::start(&url, &dns, &variables).await;
    caller.call().await;
    caller.until_exported(1).await;
    assert!(servers.asked().iter().any(|question| question.name == NAME));
    assert_eq!(caller.sidecar.stderr(), "", "one try was enough");
}

#[tokio::test]
async fn a_collector_that_is_somebody_else_gets_nothing_and_renewed_files_count_without_a_restart() {
    let (ca, other) = (Ca::new("web.example"), Ca::new("web.example"));
    let tls = ServerTls { leaf: named(&ca), client_trust: None };
    let collector = Collector::start_at(ANY, Some(&tls)).await.expect("a collector");
    let servers = NameServer::start().await.expect("a name server");
    servers.point(NAME, &[collector.addr.ip()], 1);
    servers.point("other.example", &[collector.addr.ip()], 1);
    let dns = format!("dns: {{servers: [\"{}\"]}}", servers.addr);
    let folder = tempfile::tempdir().expect("a folder");
    let port = collector.addr.port();

    let roots = write(folder.path(), "well.crt", ca.bundle_pem());
    let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", roots.as_str());
    let misnamed = Caller::start(&format!("https://other.example:{port}"), &dns, &[certificate]).await;
    misnamed.call().await;
    misnamed.until_said("TLS: ").await;
    until("it says so", async || misnamed.sidecar.stderr().contains("not valid for")).await;

    let roots = write(folder.path(), "roots.crt", other.bundle_pem());
    let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", roots.as_str());
    let caller = Caller::start(&format!("https://{NAME}:{port}"), &dns, &[certificate]).await;
    caller.call().await;
    caller.until_said("TLS: invalid peer certificate").await;
    assert!(collector.exports().is_empty());
    write(folder.path(), "roots.crt", "nothing");
    write(folder.path(), "roots.crt", ca.bundle_pem());
    caller.until_said("takes spans again").await;
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test]
async fn a_collector_that_asks_for_a_certificate_gets_ours() {
    let ca = Ca::new("web.example");
    let leaf = ca.leaf_with(&LeafSpec { addresses: vec![ANY.ip()], ..LeafSpec::default() });
    let tls = ServerTls { leaf, client_trust: Some(ca.bundle_pem().to_owned()) };
    let collector = Collector::start_at(ANY, Some(&tls)).await.expect("a collector");
    let folder = tempfile::tempdir().expect("a folder");
    let own = ca.leaf("spiffe://web.example/exporter");
    let roots = write(folder.path(), "roots.crt", ca.bundle_pem());
    let cert = write(folder.path(), "tls.crt", &own.cert_pem);
    let key = write(folder.path(), "tls.key", &own.key_pem);
    let without = [("OTEL_EXPORTER_OTLP_CERTIFICATE", roots.as_str())];
    let stranger = Caller::start(&collector.url(), "", &without).await;
    stranger.call().await;
    stranger.until_said("spans do not arrive").await;
    assert!(collector.exports().is_empty());
    let with = [
        without[0],
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", cert.as_str()),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.as_str()),
    ];
    let caller = Caller::start(&collector.url(), "", &with).await;
    caller.call().await;
    caller.until_exported(1).await;
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test]
async fn an_unknown_propagator_is_said_once_and_keeps_nothing_from_working() {
    let collector = Collector::start().await.expect("a collector");
    let caller = Caller::start(&collector.url(), "", &[("OTEL_PROPAGATORS", "xray,tracecontext")]).await;
    caller.call().await;
    caller.until_exported(1).await;
    caller.until_said("OTEL_PROPAGATORS: `xray` is not supported").await;
    assert_eq!(caller.sidecar.stderr().lines().count(), 1, "{}", caller.sidecar.stderr());
}
