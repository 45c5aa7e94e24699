//! What the probes' and the admin listener show: readiness, liveness, metrics, configuration, clusters.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::metrics::Metrics;
use bench::process::Sidecar;
use bench::server::Server;
use bench::wait::{PATIENCE, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const UNARY: &str = "/bench.Echo/Unary";
const BIDI: &str = "/bench.Echo/Bidi";

/// Nothing listens there (tcpmux, RFC 1078).
const NOBODY: &str = "127.0.0.1:1";

#[tokio::test]
async fn readiness_and_liveness_do_not_depend_on_the_app() {
    // It accepts and says nothing: an app that has not come up, or hangs.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    for app in [NOBODY.parse().expect("an address"), silent.local_addr().expect("an address")] {
        let site = Site::start(app, "").await;
        let client = Client::connect(site.sidecar.inbound(), None).await.expect("a connection");
        // A call is on its way to the app, and nothing comes of it.
        let _call = client.call(CallSpec::new("near", UNARY)).await.expect("a call");
        for path in ["/ready", "/live"] {
            for listener in [site.sidecar.bound.probes, site.sidecar.bound.admin] {
                let answer = bench::http1::get(listener, path).await.expect("an answer");
                assert_eq!(
                    (answer.status, answer.body.as_str()),
                    (200, &*format!("{}\n", &path[1..])),
                    "{app}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_probes_listener_has_metrics_ready_and_live_and_nothing_else() {
    let site = Site::with_app("").await;
    let (admin, probes) = (site.sidecar.bound.admin, site.sidecar.bound.probes);
    for (path, on_admin, on_probes) in [
        ("/metrics", 200, 200),
        ("/ready", 200, 200),
        ("/live", 200, 200),
        ("/config", 200, 404),
        ("/clusters", 200, 404),
        ("/", 404, 404),
        ("/drain", 404, 404),
    ] {
        assert_eq!(bench::http1::get(admin, path).await.expect("an answer").status, on_admin, "{path}");
        assert_eq!(bench::http1::get(probes, path).await.expect("an answer").status, on_probes, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        for listener in [admin, probes] {
            let (head, _) = ask(listener, method, "/ready").await;
            assert!(head.starts_with("HTTP/1.1 405 "), "{method}: {head}");
        }
    }
    let (head, body) = ask(probes, "HEAD", "/ready").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}{body}");
}

#[tokio::test]
async fn silent_sockets_do_not_keep_a_probe_waiting() {
    let site = Site::with_app("").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(site.sidecar.bound.probes).await.expect("a connection"));
    }
    // Far more than are served at a time, and each may be silent for ten seconds.
    let answer = timeout(Duration::from_secs(5), site.sidecar.probe("/ready")).await;
    assert_eq!(answer.expect("an answer at once").expect("an answer").status, 200);
}

#[tokio::test]
async fn message_counters_move_while_a_stream_is_open() {
    let site = Site::with_app("").await;
    for (way, at, service) in
        [("server", site.sidecar.inbound(), "near"), ("client", site.sidecar.outbound(), "far")]
    {
        let client = Client::connect(at, None).await.expect("a connection");
        let mut call = client.call(CallSpec::new(service, BIDI)).await.expect("a call");
        let labels = [("grpc_service", "bench.Echo"), ("grpc_method", "Bidi")];
        let counted = async |what: &str| {
            let metrics = site.sidecar.metrics().await.expect("a scrape");
            metrics.value(&format!("grpc_{way}_{what}_total"), &labels)
        };
        for number in 1..=3 {
            echoed(&mut call).await;
            until(&format!("{number} messages in"), async || {
                counted("msg_received").await == f64::from(number)
            })
            .await;
            until(&format!("{number} messages out"), async || counted("msg_sent").await == f64::from(number))
                .await;
            assert_eq!(counted("started").await, 1.0);
            assert_eq!(counted("handled").await, 0.0, "it is still open");
        }
        let direction = if way == "server" { "inbound" } else { "outbound" };
        let in_flight = async || {
            let metrics = site.sidecar.metrics().await.expect("a scrape");
            metrics.value("outrigger_calls_in_flight", &[("direction", direction)])
        };
        assert_eq!(in_flight().await, 1.0);
        let outcome = call.finish().await;
        assert!(outcome.is_ok(), "{outcome:?}");
        until("it is counted as handled", async || counted("handled").await == 1.0).await;
        until("it is no longer in flight", async || in_flight().await == 0.0).await;
    }
}

#[tokio::test]
async fn past_the_cap_on_series_an_unknown_method_counts_as_other_and_a_known_one_as_before() {
    let site = Site::with_app("limits: {series: 3}\n").await;
    let client = Client::connect(site.sidecar.outbound(), None).await.expect("a connection");
    for round in 1..=2 {
        for number in 0..10 {
            // The app knows none of them; they are counted all the same.
            let path = format!("/shop.Stock/Method{number}");
            let outcome = client.unary("far", &path, b"hello").await.expect("a call");
            assert!(outcome.clean_end, "{round}: {outcome:?}");
        }
    }
    let handled = async |method: &str| {
        let metrics = site.sidecar.metrics().await.expect("a scrape");
        metrics.value("grpc_client_handled_total", &[("grpc_method", method)])
    };
    until("fourteen calls count as other", async || handled("other").await == 14.0).await;
    for number in 0..3 {
        assert_eq!(handled(&format!("Method{number}")).await, 2.0);
    }
    let metrics = site.sidecar.metrics().await.expect("a scrape");
    assert_eq!(metrics.matching("grpc_client_started_total", &[]).count(), 4);
    assert_eq!(metrics.value("outrigger_refused_total", &[("limit", "series")]), 14.0);
}

#[tokio::test]
async fn calls_that_are_refused_take_no_series_away_from_those_that_are_let_in() {
    const INVENTED: u32 = 60;
    let rules = "inbound: {authorization: [{allow: {methods: [bench.Echo/Unary]}}]}, \
                 routes: [{match: {service: bench.Echo}}], unmatched: refuse";
    let site = Site::with_rules("limits: {series: 4}\n", rules).await;
    for (way, at, service, code) in [
        ("server", site.sidecar.inbound(), "near", "PermissionDenied"),
        ("client", site.sidecar.outbound(), "near", "Unimplemented"),
    ] {
        let client = Client::connect(at, None).await.expect("a connection");
        for number in 0..INVENTED {
            let outcome = client.unary(service, &format!("/invented.Service/Method{number}"), b"x").await;
            assert!(matches!(outcome.expect("a call").grpc_status, Some(7 | 12)));
        }
        let of = async |what: &str, labels: &[(&str, &str)]| {
            let metrics = site.sidecar.metrics().await.expect("a scrape");
            metrics.value(&format!("grpc_{way}_{what}_total"), labels)
        };
        let refused = [("grpc_method", "other"), ("grpc_code", code)];
        until("they count as other", async || of("handled", &refused).await == f64::from(INVENTED)).await;
        assert_eq!(of("started", &[]).await, f64::from(INVENTED), "and as nothing else");
        // One that is let in has a series of its own.
        client.unary(service, UNARY, b"x").await.expect("a call");
        let unary = [("grpc_service", "bench.Echo"), ("grpc_method", "Unary")];
        until("it counts by its name", async || of("handled", &unary).await == 1.0).await;
    }
    let metrics = site.sidecar.metrics().await.expect("a scrape");
    assert_eq!(metrics.value("outrigger_refused_total", &[("limit", "series")]), 0.0, "no limit was met");
}

#[tokio::test]
async fn metrics_are_the_prometheus_text_format_whatever_a_caller_names_its_method() {
    let site = Site::with_app("").await;
    let strange = r#"we"ird.Ser\vice"#;
    for at in [site.sidecar.inbound(), site.sidecar.outbound()] {
        let client = Client::connect(at, None).await.expect("a connection");
        for path in [UNARY, &format!("/{strange}/Me{{th}}od,le=\"1\"")] {
            client
                .unary(if at == site.sidecar.inbound() { "near" } else { "far" }, path, b"x")
                .await
                .expect("a call");
        }
    }
    let handled = |metrics: &Metrics| {
        ["client", "server"]
            .map(|way| metrics.value(&format!("grpc_{way}_handled_total"), &[("grpc_service", strange)]))
    };
    until("both are counted under the name they gave", async || {
        handled(&site.sidecar.metrics().await.expect("a scrape")) == [1.0; 2]
    })
    .await;
    let (head, text) = ask(site.sidecar.bound.probes, "GET", "/metrics").await;
    assert!(head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    let metrics = Metrics::parse(&text);
    assert_eq!(metrics.samples().len(), samples, "every line is a comment or a sample");
    assert!(text.ends_with('\n'));
    let types: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let unique: BTreeSet<String> =
        metrics.samples().iter().map(|s| format!("{} {:?}", s.name, s.labels)).collect();
    assert_eq!(unique.len(), samples, "no series stands twice");
    for (name, kind) in types {
        assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
        assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
        if kind == "histogram" {
            check_histogram(&metrics, name);
        }
    }
}

#[tokio::test]
async fn config_shows_both_files_as_they_were_read() {
    let site = Site::with_app("# a remark\n").await;
    // What is shown is what is in force, and not what has been written since.
    let read = |name: &str| std::fs::read_to_string(site.folder.path().join(name)).expect("a file");
    let (sidecar, mesh) = (read("sidecar.yaml"), read("mesh.yaml"));
    std::fs::write(site.folder.path().join("mesh.yaml"), "version: 2\n").expect("a file");
    let config = site.page("/config").await;
    assert_eq!(config["sidecar"]["text"], sidecar);
    assert_eq!(config["mesh"]["text"], mesh);
    assert_eq!(config["mesh"]["file"], "mesh.yaml");
    assert!(config["mesh"]["read_at_unix_seconds"].as_u64().expect("a time") > 1_700_000_000);
}

#[tokio::test]
async fn clusters_show_calls_in_flight_and_an_endpoint_that_cools() {
    let site = Site::with_app("").await;
    let client = Client::connect(site.sidecar.outbound(), None).await.expect("a connection");
    assert_eq!(site.endpoint("far.default").await["in_flight"], 0);
    let mut call = client.call(CallSpec::new("far", BIDI)).await.expect("a call");
    echoed(&mut call).await;
    let far = site.endpoint("far.default").await;
    assert_eq!(far["in_flight"], 1, "{far}");
    assert_eq!(far["address"], site.app.as_ref().expect("an app").addr.to_string());
    assert_eq!((&far["tls"], &far["cooling"]), (&Value::from("none"), &Value::from(false)));
    assert!(far["latency_ms"].as_f64().expect("a number") > 0.0, "{far}");
    assert!(call.finish().await.is_ok());
    until("it is no longer in flight", async || site.endpoint("far.default").await["in_flight"] == 0).await;

    // Each failure doubles the back-off, so that one of them is long enough to be seen.
    until("an endpoint that cannot be reached cools", async || {
        let outcome = client.unary("gone", UNARY, b"x").await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
        site.endpoint("gone.default").await["cooling"] == true
    })
    .await;
}

/// A sidecar of `near`, with `far` and `gone` in its mesh.
struct Site {
    sidecar: Sidecar,
    folder: TempDir,
    app: Option<Server>,
}

impl Site {
    /// With an app that echoes, which also is the service `far`; `more` is added to `sidecar.yaml`.
    async fn with_app(more: &str) -> Self {
        let app = Server::start(([127, 0, 0, 1], 0).into()).await.expect("an app");
        let site = Self::start(app.addr, more).await;
        Self { app: Some(app), ..site }
    }

    /// [`Site::with_app`], where `near` has `rules` and is its own endpoint.
    async fn with_rules(more: &str, rules: &str) -> Self {
        let app = Server::start(([127, 0, 0, 1], 0).into()).await.expect("an app");
        let near = format!("{{name: near, endpoints: [\"{}\"], {rules}}}", app.addr);
        let site = Self::start_with(app.addr, more, &near).await;
        Self { app: Some(app), ..site }
    }

    async fn start(app: SocketAddr, more: &str) -> Self {
        Self::start_with(app, more, "{name: near}").await
    }

    async fn start_with(app: SocketAddr, more: &str, near: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = format!(
            "service: near\n\
             inbound: [{{listen: \"127.0.0.1:0\", app: \"{app}\", mtls: off}}]\n\
             outbound: {{listen: \"127.0.0.1:0\"}}\n\
             admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\n\
             mesh: {{file: mesh.yaml}}\n\
             {more}"
        );
        let mesh = format!(
            "version: 1\nservices:\n  - {near}\n  - {{name: far, endpoints: [\"{app}\"]}}\n  \
             - {{name: gone, endpoints: [\"{NOBODY}\"]}}\n"
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, &sidecar, &mesh, folder.path()).await.expect("a sidecar");
        Self { sidecar, folder, app: None }
    }

    async fn page(&self, path: &str) -> Value {
        let answer = self.sidecar.get(path).await.expect("an answer");
        serde_json::from_str(&answer.body).unwrap_or_else(|fault| panic!("{fault}: {}", answer.body))
    }

    /// The only endpoint of a service, as `/clusters` shows it.
    async fn endpoint(&self, service: &str) -> Value {
        let page = self.page("/clusters").await;
        let clusters = page["clusters"].as_array().expect("a list");
        let endpoints: Vec<&Value> = clusters
            .iter()
            .filter(|cluster| cluster["service"] == service)
            .flat_map(|cluster| cluster["endpoints"].as_array().expect("a list"))
            .collect();
        let [endpoint] = endpoints[..] else { panic!("one endpoint of {service}: {page:#}") };
        endpoint.clone()
    }
}

/// Buckets are cumulative, the last is `+Inf` and equal to the count, for every set of labels.
fn check_histogram(metrics: &Metrics, name: &str) {
    let counts: Vec<_> = metrics.matching(&format!("{name}_count"), &[]).collect();
    assert!(!counts.is_empty(), "{name}");
    for count in counts {
        let labels: Vec<(&str, &str)> = count.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        let buckets: Vec<_> = metrics.matching(&format!("{name}_bucket"), &labels).collect();
        assert!(buckets.is_sorted_by(|a, b| a.value <= b.value), "{buckets:?}");
        let last = buckets.last().expect("buckets");
        assert_eq!((last.label("le"), last.value), (Some("+Inf"), count.value));
        assert_eq!(metrics.matching(&format!("{name}_sum"), &labels).count(), 1);
    }
}

/// One exchange; the head and the body of the answer.
async fn ask(at: SocketAddr, method: &str, path: &str) -> (String, String) {
    let exchange = async {
        let mut tcp = TcpStream::connect(at).await?;
        tcp.write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

async fn echoed(call: &mut Call) {
    call.send(b"hello").await.expect("the stream is open");
    let message = timeout(PATIENCE, call.recv()).await.expect("an echo in time");
    assert_eq!(message.as_deref(), Some(&b"hello"[..]));
}
