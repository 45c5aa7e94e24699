//! Traces: a call through two sidecars is one trace, whatever headers it came with, and a collector that is away costs
//! spans and nothing else.

mod pair;

use std::time::{Duration, Instant};

use bench::call::CallSpec;
use bench::certs::{Leaf, LeafSpec};
use bench::client::Client;
use bench::closed::ClosedPort;
use bench::otlp::{Answer, Collector, Span};
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::tls::ServerTls;
use bench::wait::{soon, until, within};
use tokio::net::TcpListener;

use crate::pair::{ANY, BIDI, ECHO, ECHO_ID, SHOPPER_ID, Site, UNARY, mesh, metric, well};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Kinds of spans, as the protos name them.
const SERVER: &str = "SPAN_KIND_SERVER";
const CLIENT: &str = "SPAN_KIND_CLIENT";

/// Two sidecars in a row that record, and the app behind them.
struct Traced {
    client: Client,
    caller: Sidecar,
    callee: Sidecar,
    app: Server,
    _site: Site,
}

impl Traced {
    /// `more` is added to both files; spans go to `endpoint` every 50 ms.
    async fn start(endpoint: &str, more: &str) -> Self {
        Self::start_with(endpoint, more, &[]).await
    }

    async fn start_with(endpoint: &str, more: &str, variables: &[(&'static str, &str)]) -> Self {
        let mut site = Site::new();
        site.variables.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
        site.variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()));
        site.variables.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let app = Server::start(ANY).await.expect("an app");
        let callee = site.callee(app.addr, more).await;
        let patient = "    upstream: {connect_timeout: 20s}";
        let caller = site.caller(&mesh(&[callee.inbound()], patient), more).await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        Self { client, caller, callee, app, _site: site }
    }

    /// Every span that there is of the calls so far: both sidecars go, and what waits in them leaves.
    async fn all_told(mut self, collector: &Collector) -> Vec<Span> {
        drop(self.client);
        for sidecar in [&mut self.caller, &mut self.callee] {
            sidecar.term();
            soon("the end", sidecar.wait()).await.expect("an end");
        }
        collector.spans()
    }

    /// One call that goes well, with these headers.
    async fn call(&self, headers: &[(&str, &str)]) {
        let mut spec = CallSpec::new(ECHO, UNARY);
        spec.headers.extend(headers);
        well(self.client.unary_with(spec, b"ping").await);
    }
}

/// The spans of a collector, once there are so many.
async fn spans(collector: &Collector, count: usize) -> Vec<Span> {
    until(format!("{count} spans"), async || collector.spans().len() >= count).await;
    collector.spans()
}

/// The spans of both sides.
async fn both(collector: &Collector) -> (Span, Span) {
    let spans = spans(collector, 2).await;
    let of = |kind: &str| {
        spans
            .iter()
            .find(|span| span.kind.as_str_name() == kind)
            .unwrap_or_else(|| panic!("{kind} {spans:?}"))
    };
    (of(CLIENT).clone(), of(SERVER).clone())
}

fn header<'a>(app: &'a [bench::record::CallRecord], name: &str) -> &'a str {
    app[0].headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
}

#[tokio::test]
async fn a_call_through_two_sidecars_is_one_trace_under_the_callers_span() {
    let single = format!("{TRACE}-{CALLER}-1-05e3ac9a4f6e3b90");
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let formats: [&[(&str, &str)]; 3] = [
        &[("traceparent", &parent), ("tracestate", "a=1")],
        &[("b3", &single)],
        &[("x-b3-traceid", TRACE), ("x-b3-spanid", CALLER), ("x-b3-sampled", "1")],
    ];
    for headers in formats {
        let collector = Collector::start().await.expect("a collector");
        let traced = Traced::start(&collector.url(), "").await;
        traced.call(headers).await;
        let (client, server) = both(&collector).await;
        assert_eq!((client.trace.as_str(), client.parent.as_str()), (TRACE, CALLER), "{headers:?}");
        assert_eq!((server.trace.as_str(), &server.parent), (TRACE, &client.id), "{headers:?}");
        assert!(
            client.began <= server.began && server.ended <= client.ended + 1_000_000,
            "{client:?} {server:?}"
        );

        let app = traced.app.calls();
        let seen = match headers[0].0 {
            "traceparent" => {
                assert_eq!((header(&app, "tracestate"), server.state.as_str()), ("a=1", "a=1"));
                header(&app, "traceparent").to_owned()
            }
            "b3" => header(&app, "b3").to_owned(),
            _ => {
                assert_eq!(header(&app, "x-b3-parentspanid"), client.id);
                format!(
                    "{} {} {}",
                    header(&app, "x-b3-traceid"),
                    header(&app, "x-b3-spanid"),
                    header(&app, "x-b3-sampled")
                )
            }
        };
        let (own, before) = (&server.id, &client.id);
        let expected = match headers[0].0 {
            "traceparent" => format!("00-{TRACE}-{own}-01"),
            "b3" => format!("{TRACE}-{own}-1-{before}"),
            _ => format!("{TRACE} {own} 1"),
        };
        assert_eq!(seen, expected);
        let others =
            ["traceparent", "b3", "x-b3-traceid"].iter().filter(|name| app[0].headers.contains_key(**name));
        assert_eq!(others.count(), 1, "no second way to say it: {:?}", app[0].headers);
    }
}

#[tokio::test]
async fn spans_say_what_the_conventions_for_rpc_ask_for() {
    let collector = Collector::start().await.expect("a collector");
    let traced = Traced::start(&collector.url(), "").await;
    let mut call = traced.client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    for _ in 0..3 {
        call.send(b"0123456789").await.expect("sent");
        soon("an echo", call.recv()).await.expect("an echo");
    }
    assert!(soon("the end", call.finish()).await.is_ok());
    let (client, server) = both(&collector).await;
    assert_eq!((client.parent.as_str(), &server.parent), ("", &client.id), "the trace begins here");
    assert_eq!((client.service.as_str(), server.service.as_str()), ("shopper.shop", "echo.shop"));
    for span in [&client, &server] {
        assert_eq!(span.name, "bench.Echo/Bidi");
        for (key, value) in [
            ("rpc.system", "grpc"),
            ("rpc.service", "bench.Echo"),
            ("rpc.method", "Bidi"),
            ("rpc.grpc.status_code", "0"),
            ("outrigger.service", "echo.shop"),
            ("outrigger.attempts", "1"),
            ("outrigger.request.messages", "3"),
            ("outrigger.request.bytes", "45"),
            ("outrigger.response.messages", "3"),
            ("outrigger.response.bytes", "45"),
        ] {
            assert_eq!(span.attribute(key), value, "{key} of {span:?}");
        }
        assert!(!span.is_error && span.began < span.ended);
        assert_eq!(span.events.len(), 1);
        assert_eq!(span.events[0].1["outrigger.outcome"], "answered");
    }
    let endpoint = traced.callee.inbound();
    assert_eq!(
        (client.attribute("server.address"), client.attribute("server.port")),
        ("127.0.0.1", endpoint.port().to_string().as_str())
    );
    assert_eq!(server.attribute("server.port"), traced.app.addr.port().to_string());
    assert_eq!(
        (client.attribute("outrigger.direction"), server.attribute("outrigger.direction")),
        ("outbound", "inbound")
    );
    assert_eq!(
        (client.attribute("outrigger.route"), server.attribute("outrigger.peer")),
        ("unrouted", SHOPPER_ID)
    );
}

#[tokio::test]
async fn a_server_is_at_fault_only_for_its_own_faults_and_a_client_for_all() {
    for (code, server_at_fault) in [("5", false), ("13", true)] {
        let collector = Collector::start().await.expect("a collector");
        let traced = Traced::start(&collector.url(), "").await;
        let script = format!("status:{code}");
        let spec = CallSpec::new(ECHO, UNARY).header("x-script", &script);
        traced.client.unary_with(spec, b"ping").await.expect("a call");
        let (client, server) = both(&collector).await;
        assert_eq!((client.is_error, server.is_error), (true, server_at_fault), "{code}");
        assert_eq!(
            (client.attribute("rpc.grpc.status_code"), server.attribute("rpc.grpc.status_code")),
            (code, code)
        );
    }
}

#[tokio::test]
async fn a_call_that_was_refused_and_repeated_shows_both_attempts() {
    let collector = Collector::start().await.expect("a collector");
    let mut site = Site::new();
    site.variables.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
    let refusing = endpoint(&site, "first").await;
    let good = endpoint(&site, "second").await;
    refusing.script_always(Some("refused"));
    let tracing = format!("tracing: {{endpoint: \"{}\"}}", collector.url());
    let patient = "    upstream: {connect_timeout: 20s}";
    let caller = site.caller(&mesh(&[refusing.addr, good.addr], patient), &tracing).await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let repeated = || collector.spans().into_iter().find(|span| span.events.len() == 2);
    until("a call goes to the one that refuses", async || {
        well(client.unary(ECHO, UNARY, b"ping").await);
        repeated().is_some()
    })
    .await;
    let repeated = repeated().expect("just seen");
    let [(_, first), (_, second)] = &repeated.events[..] else { panic!("two attempts") };
    assert_eq!(
        (first["outrigger.outcome"].as_str(), second["outrigger.outcome"].as_str()),
        ("refused", "answered")
    );
    assert_eq!((first["outrigger.resend"].as_str(), second["outrigger.resend"].as_str()), ("false", "true"));
    assert_eq!(first["outrigger.endpoint"], refusing.addr.to_string());
    assert_eq!(second["outrigger.endpoint"], good.addr.to_string());
    assert!(first["outrigger.reason"].contains("refused unprocessed"), "{first:?}");
    assert_eq!(repeated.attribute("outrigger.attempts"), "2");
    assert!(!repeated.is_error);
}

/// A server that stands in for the sidecar of `echo`.
async fn endpoint(site: &Site, name: &str) -> Server {
    let leaf: Leaf = site.ca.leaf(ECHO_ID);
    let tls = Some(ServerTls { leaf, client_trust: Some(site.ca.bundle_pem().to_owned()) });
    Server::start_with(ANY, ServerOptions { name: name.to_owned(), tls, ..ServerOptions::default() })
        .await
        .expect("a server")
}

#[tokio::test]
async fn the_callers_decision_is_kept_and_passes_on() {
    let collector = Collector::start().await.expect("a collector");
    let traced = Traced::start(&collector.url(), "tracing: {sampling: {ratio: 0%}}").await;
    let not = format!("00-{TRACE}-{CALLER}-00");
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    traced.call(&[("traceparent", &not)]).await;
    traced.call(&[("b3", "0")]).await;
    traced.call(&[]).await;
    traced.call(&[("traceparent", &sampled)]).await;
    let spans = spans(&collector, 2).await;
    assert!(spans.len() == 2 && spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
    let calls = traced.app.calls();
    assert_eq!(calls[0].headers["traceparent"], not.as_str(), "what nobody records passes unchanged");
    assert!(calls[1].headers["b3"] == "0" && !calls[1].headers.contains_key("traceparent"));
    assert!(calls[2].headers["traceparent"].to_str().expect("ASCII").ends_with("-00"), "decided against");
}

#[tokio::test]
async fn a_decision_that_does_not_count_is_left_to_the_ratio() {
    let collector = Collector::start().await.expect("a collector");
    let traced = Traced::start(&collector.url(), "tracing: {sampling: {parent: false, ratio: 100%}}").await;
    traced.call(&[("traceparent", &format!("00-{TRACE}-{CALLER}-00"))]).await;
    let (client, server) = both(&collector).await;
    assert_eq!((client.trace.as_str(), client.parent.as_str(), &server.parent), (TRACE, CALLER, &client.id));
}

#[tokio::test]
async fn a_share_of_traces_is_recorded_whole() {
    const CALLS: usize = 400;
    let collector = Collector::start().await.expect("a collector");
    let traced = Traced::start(&collector.url(), "tracing: {sampling: {parent: false, ratio: 50%}}").await;
    for _ in 0..CALLS {
        traced.call(&[]).await;
    }
    let spans = traced.all_told(&collector).await;
    let client: Vec<_> = spans.iter().filter(|span| span.kind.as_str_name() == CLIENT).collect();
    // Eight standard deviations wide.
    assert!((120..280).contains(&client.len()), "{} of {CALLS}", client.len());
    assert_eq!(spans.len(), 2 * client.len());
    for span in client {
        assert!(spans.iter().any(|other| other.parent == span.id), "both sidecars took the same traces");
    }
}

#[tokio::test]
async fn a_rate_is_not_exceeded() {
    const CALLS: usize = 300;
    let collector = Collector::start().await.expect("a collector");
    let traced = Traced::start(&collector.url(), "tracing: {sampling: {rate: 20/s}}").await;
    let began = Instant::now();
    for _ in 0..CALLS {
        traced.call(&[]).await;
    }
    let most = 20 + 20 * (began.elapsed().as_secs() as usize + 1);
    assert!(most < CALLS, "too slow a machine to show anything: {:?}", began.elapsed());
    let spans = traced.all_told(&collector).await;
    let client = spans.iter().filter(|span| span.kind.as_str_name() == CLIENT).count();
    assert!((20..=most).contains(&client), "{client} of {most}");
}

#[tokio::test]
async fn what_the_environment_says_of_spans_holds() {
    let collector = Collector::start().await.expect("a collector");
    let variables = [
        ("OTEL_SERVICE_NAME", "till"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%20one"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_PROPAGATORS", "b3multi"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let traced = Traced::start_with(&collector.url(), "", &variables).await;
    traced.call(&[]).await;
    let (client, server) = both(&collector).await;
    assert_eq!((client.service.as_str(), &server.parent), ("till", &client.id));
    let export = &collector.exports()[0];
    assert_eq!(export.resource["deployment.environment.name"], "test one");
    assert_eq!(
        (&export.headers["authorization"], &export.headers["grpc-encoding"]),
        (&"Bearer abc".parse().expect("a value"), &"gzip".parse().expect("a value"))
    );
    let app = traced.app.calls();
    assert_eq!((header(&app, "x-b3-spanid"), header(&app, "traceparent")), (server.id.as_str(), ""));
}

#[tokio::test]
async fn spans_leave_when_the_sidecar_goes() {
    let collector = Collector::start().await.expect("a collector");
    let mut traced =
        Traced::start_with(&collector.url(), "", &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]).await;
    traced.call(&[]).await;
    assert!(collector.spans().is_empty());
    traced.caller.term();
    traced.callee.term();
    soon("the end", traced.caller.wait()).await.expect("an end");
    soon("the end", traced.callee.wait()).await.expect("an end");
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn spans_go_to_a_collector_by_tls() {
    let site = Site::new();
    let leaf = site.ca.leaf_with(&LeafSpec { addresses: vec![ANY.ip()], ..LeafSpec::default() });
    let collector =
        Collector::start_at(ANY, Some(&ServerTls { leaf, client_trust: None })).await.expect("a collector");
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("roots.crt");
    std::fs::write(&roots, site.ca.bundle_pem()).expect("a file");
    let roots = roots.to_str().expect("UTF-8");
    let traced = Traced::start_with(&collector.url(), "", &[("OTEL_EXPORTER_OTLP_CERTIFICATE", roots)]).await;
    traced.call(&[]).await;
    assert_eq!(spans(&collector, 2).await.len(), 2);
}

/// What a collector does that is not there for its callers.
enum Away {
    Refusing,
    Silent,
    Hanging,
    Failing,
}

#[tokio::test]
async fn with_the_collector_away_calls_go_on_and_what_is_lost_is_counted() {
    const CALLS: u32 = 400;
    for away in [Away::Refusing, Away::Silent, Away::Hanging, Away::Failing] {
        let collector = Collector::start().await.expect("a collector");
        let nobody = ClosedPort::take().expect("a port");
        // Accepts in the kernel, and reads nothing.
        let silent = TcpListener::bind(ANY).await.expect("a listener");
        let url = match away {
            Away::Refusing => format!("http://{}", nobody.addr),
            Away::Silent => format!("http://{}", silent.local_addr().expect("an address")),
            Away::Hanging | Away::Failing => collector.url(),
        };
        collector.set(if matches!(away, Away::Failing) { Answer::Status(14) } else { Answer::Hang });
        let traced = Traced::start(&url, "limits: {spans: 50}").await;
        let [with, without] = paces(&traced, CALLS).await;
        assert!(with < 3 * without, "{with:?} for so many calls, and {without:?} where nothing is recorded");
        for sidecar in [&traced.caller, &traced.callee] {
            let full = [("reason", "queue_full")];
            until("drops are counted", async || {
                // The queue, and what is on its way.
                metric(sidecar, "outrigger_spans_dropped_total", &full).await >= u64::from(CALLS) - 100 - 50
            })
            .await;
            until("it is said", async || {
                sidecar.stderr().contains("spans do not arrive at")
                    || !matches!(away, Away::Refusing | Away::Failing)
            })
            .await;
            assert!(sidecar.stderr().lines().count() <= 1, "{}", sidecar.stderr());
        }
        // Who goes does not wait for it.
        let mut traced = traced;
        drop(traced.client);
        traced.caller.term();
        // Two seconds for spans, one for connections.
        within(Duration::from_secs(15), "the end", traced.caller.wait()).await.expect("an end");
    }
}

/// How long calls take here, and through two sidecars that record nothing: in turns, the best of a few, since the
/// others tell how busy the machine is.
async fn paces(traced: &Traced, calls: u32) -> [Duration; 2] {
    const TURNS: u32 = 8;
    let plain = pair::Pair::start().await;
    let client = plain.client().await;
    let [mut with, mut without] = [Duration::MAX; 2];
    for _ in 0..TURNS {
        let began = Instant::now();
        for _ in 0..calls / TURNS {
            traced.call(&[]).await;
        }
        with = with.min(began.elapsed());
        let began = Instant::now();
        for _ in 0..calls / TURNS {
            well(client.unary(ECHO, UNARY, b"ping").await);
        }
        without = without.min(began.elapsed());
    }
    [with, without]
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_spans_again_and_both_are_said_once() {
    let collector = Collector::start().await.expect("a collector");
    collector.set(Answer::Status(14));
    let traced = Traced::start(&collector.url(), "").await;
    traced.call(&[]).await;
    until("a failure is said", async || traced.caller.stderr().contains("spans do not arrive")).await;
    collector.set(Answer::Well);
    until("it is said", async || traced.caller.stderr().contains("takes spans again")).await;
    until("they are counted", async || {
        metric(&traced.caller, "outrigger_spans_exported_total", &[]).await == 1
    })
    .await;
    assert_eq!(traced.caller.stderr().lines().count(), 2, "{}", traced.caller.stderr());
}

#[tokio::test]
async fn what_a_collector_will_not_have_is_counted_and_not_sent_again() {
    let collector = Collector::start().await.expect("a collector");
    for (answer, reason) in [(Answer::Status(3), "refused"), (Answer::Reject(1), "rejected")] {
        collector.set(answer);
        let traced = Traced::start(&collector.url(), "").await;
        let before = collector.exports().len();
        traced.call(&[]).await;
        for sidecar in [&traced.caller, &traced.callee] {
            until(reason, async || {
                metric(sidecar, "outrigger_spans_dropped_total", &[("reason", reason)]).await == 1
            })
            .await;
        }
        assert_eq!(collector.exports().len(), before + 2, "once for each sidecar");
    }
}
