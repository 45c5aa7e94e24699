//! Trace headers across two sidecars.

use ::http::HeaderMap;
use bench::client::Client;
use bench::otlp::{Collector, Span};
use bench::process::Sidecar;
use bench::server::Server;
use bench::wait::until;

use crate::pair::{ANY, Site, mesh};
use crate::{ALL, call, line};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SHORT: &str = "a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Every header that names a trace.
const NAMES: [&str; 8] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// Two sidecars around an app that keeps the headers of its calls.
struct Chain {
    caller: Sidecar,
    client: Client,
    app: Server,
    _callee: Sidecar,
    _site: Site,
}

impl Chain {
    async fn start(more: &str, variables: &[(&'static str, &str)]) -> Self {
        let mut site = Site::new();
        site.variables.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let app = Server::start(ANY).await.expect("an app");
        let callee = site.callee(app.addr, more).await;
        let patient = "    upstream: {connect_timeout: 20s}";
        let caller = site.caller(&mesh(&[callee.inbound()], patient), more).await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        Self { caller, client, app, _callee: callee, _site: site }
    }

    /// What the app saw of a call with these headers.
    async fn seen(&self, headers: &[(&str, &str)]) -> HeaderMap {
        call(&self.client, headers).await;
        self.app.calls().last().expect("a call").headers.clone()
    }
}

/// Recording, with spans that leave soon.
fn recording(collector: &Collector) -> Vec<(&'static str, String)> {
    vec![("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()), ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned())]
}

async fn both(collector: &Collector) -> (Span, Span) {
    until("two spans", async || collector.spans().len() >= 2).await;
    let mut spans = collector.spans();
    spans.sort_by_key(|span| span.attribute("outrigger.direction").to_owned());
    let [server, client] = <[Span; 2]>::try_from(spans).expect("two spans");
    (client, server)
}

fn traces(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let value = |name| Some((name, headers.get(name)?.to_str().expect("ASCII")));
    NAMES.into_iter().filter_map(value).collect()
}

#[tokio::test]
async fn who_propagates_nothing_begins_no_trace_and_lets_one_that_comes_go_on() {
    let parent = format!("00-{TRACE}-{CALLER}-01");
    for (file, variables) in [
        ("tracing: {propagate: []}", &[][..]),
        ("", &[("OTEL_PROPAGATORS", "none")]),
        // The file wins.
        ("tracing: {propagate: []}", &[("OTEL_PROPAGATORS", "b3")]),
    ] {
        for log in ["", ALL] {
            let mut chain = Chain::start(&format!("{file}\n{log}"), variables).await;
            assert_eq!(traces(&chain.seen(&[]).await), [], "{file} {log}");
            let given = [("traceparent", parent.as_str()), ("tracestate", "a=1")];
            assert_eq!(traces(&chain.seen(&given).await), given, "{file} {log}");
            if !log.is_empty() {
                let (without, with) = (line(&mut chain.caller).await, line(&mut chain.caller).await);
                assert!(without["trace_id"].is_null() && without["span_id"].is_null(), "{without}");
                assert_eq!((&with["trace_id"], &with["span_id"]), (&TRACE.into(), &CALLER.into()));
            }
        }
    }
}

#[tokio::test]
async fn by_default_a_call_without_a_trace_gets_one_that_is_not_sampled() {
    let chain = Chain::start("", &[]).await;
    let headers = chain.seen(&[]).await;
    let [("traceparent", parent)] = traces(&headers)[..] else { panic!("{headers:?}") };
    assert!(parent.starts_with("00-") && parent.ends_with("-00") && parent.len() == 55, "{parent}");
}

#[tokio::test]
async fn a_trace_of_64_bits_and_the_debug_flag_go_through_both_sidecars() {
    let padded = format!("0000000000000000{SHORT}");
    let single = format!("{SHORT}-{CALLER}-d");
    let multi = [("x-b3-traceid", SHORT), ("x-b3-spanid", CALLER), ("x-b3-flags", "1")];
    for given in [&[("b3", single.as_str())][..], &multi] {
        let collector = Collector::start().await.expect("a collector");
        let variables = recording(&collector);
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        // Debug counts whatever the share is.
        let chain = Chain::start("tracing: {sampling: {ratio: 0%}}", &variables).await;
        let headers = chain.seen(given).await;
        let (client, server) = both(&collector).await;
        assert_eq!((&client.trace, &server.trace), (&padded, &padded));
        assert_eq!((client.parent.as_str(), &server.parent), (CALLER, &client.id));
        let single = format!("{SHORT}-{}-d-{}", server.id, client.id);
        let expected = match given.len() {
            1 => vec![("b3", single.as_str())],
            _ => vec![
                ("x-b3-traceid", SHORT),
                ("x-b3-spanid", &server.id),
                ("x-b3-parentspanid", &client.id),
                ("x-b3-flags", "1"),
            ],
        };
        assert_eq!(traces(&headers), expected);
    }
}

#[tokio::test]
async fn a_state_in_several_headers_is_one_state_of_the_span_and_passes_as_it_came() {
    let collector = Collector::start().await.expect("a collector");
    let variables = recording(&collector);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let chain = Chain::start("", &variables).await;
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let given = [("traceparent", parent.as_str()), ("tracestate", "a=1"), ("tracestate", "b=2,c=3")];
    let headers = chain.seen(&given).await;
    let (client, server) = both(&collector).await;
    assert_eq!((client.state.as_str(), server.state.as_str()), ("a=1,b=2,c=3", "a=1,b=2,c=3"));
    let passed: Vec<_> = headers.get_all("tracestate").iter().collect();
    assert_eq!(passed, ["a=1", "b=2,c=3"]);
}
