//! Prometheus, as Debian has it, beside two sidecars: it scrapes them, its queries tell what happened, and its own
//! checker has nothing to say of what it is given.

#[path = "../parts/mod.rs"]
mod parts;
mod scraper;
mod site;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};

use bench::call::CallSpec;
use bench::client::Client;
use bench::process::Sidecar;
use bench::wait::until;

use crate::parts::{Promise, keep, program};
use crate::scraper::Scraper;
use crate::site::{GONE, PAYMENTS, Site};

const UNARY: &str = "/bench.Echo/Unary";
const BIDI: &str = "/bench.Echo/Bidi";

fn main() -> ExitCode {
    let prometheus = prometheus().err();
    let promtool = promtool().err();
    keep(
        "prometheus",
        vec![
            Promise {
                name: "prometheus_scrapes_both_sidecars_and_its_queries_tell_what_happened",
                lacks: prometheus,
                test: || run(prometheus_scrapes_both_sidecars_and_its_queries_tell_what_happened()),
            },
            Promise {
                name: "promtool_has_nothing_to_say_of_a_sidecar_fresh_or_after_calls_of_every_kind",
                lacks: promtool.clone(),
                test: || run(promtool_has_nothing_to_say_of_a_sidecar_fresh_or_after_calls_of_every_kind()),
            },
            Promise {
                name: "promtool_would_see_a_counter_that_is_named_or_told_badly",
                lacks: promtool,
                test: promtool_would_see_a_counter_that_is_named_or_told_badly,
            },
        ],
    )
}

async fn prometheus_scrapes_both_sidecars_and_its_queries_tell_what_happened() {
    const CALLS: usize = 30;
    let site = Site::start().await;
    let client = Client::connect(site.orders.outbound(), None).await.expect("a connection");
    for _ in 0..CALLS {
        let outcome = client.unary(PAYMENTS, UNARY, b"ping").await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    let denied = client.unary(PAYMENTS, "/bench.Echo/Denied", b"ping").await.expect("a call");
    assert_eq!(denied.grpc_status, Some(7), "{denied:?}");
    let mut open = client.call(CallSpec::new(PAYMENTS, BIDI)).await.expect("a call");
    open.send(b"hello").await.expect("a message");
    assert!(open.recv().await.is_some());

    let scraper = Scraper::start(&[site.orders.bound.probes, site.payments.bound.probes]).await;
    // Counted when the scrape comes, which is after the calls; what is asked for stands in one of the next.
    for (query, expected) in [
        ("sum(up)".to_owned(), 2.0),
        (r#"sum(grpc_server_handled_total{grpc_code="OK",grpc_method="Unary"})"#.to_owned(), CALLS as f64),
        (r#"sum(grpc_client_handled_total{grpc_code="OK",grpc_method="Unary"})"#.to_owned(), CALLS as f64),
        (r#"sum(grpc_server_handled_total{grpc_code="PermissionDenied"})"#.to_owned(), 1.0),
        (r#"sum(grpc_server_msg_received_total{grpc_method="Bidi"})"#.to_owned(), 1.0),
        (r#"sum(grpc_server_started_total) - sum(grpc_server_handled_total)"#.to_owned(), 1.0),
        (r#"sum(outrigger_calls_in_flight{direction="inbound"})"#.to_owned(), 1.0),
        (r#"count(outrigger_certificate_expiry_timestamp_seconds{certificate="leaf"} > time())"#.to_owned(), 2.0),
        // A histogram that Prometheus takes for one: every call was faster than a minute, and slower than nothing.
        (
            "histogram_quantile(0.99, sum by (le) (grpc_server_handling_seconds_bucket{grpc_method=\"Unary\"})) < bool 60"
                .to_owned(),
            1.0,
        ),
    ] {
        until(format!("{query} is {expected}"), async || scraper.query(&query).await == Some(expected)).await;
    }
    // A scrape that the machine was too slow for is followed by others.
    until(format!("no scrape fails: {:?}", scraper.faults().await), async || {
        scraper.faults().await.is_empty()
    })
    .await;
}

async fn promtool_has_nothing_to_say_of_a_sidecar_fresh_or_after_calls_of_every_kind() {
    let site = Site::start().await;
    for sidecar in [&site.orders, &site.payments] {
        assert_silent(sidecar, "fresh").await;
    }
    let client = Client::connect(site.orders.outbound(), None).await.expect("a connection");
    let mut open = client.call(CallSpec::new(PAYMENTS, BIDI)).await.expect("a call");
    open.send(b"hello").await.expect("a message");
    assert!(open.recv().await.is_some());
    for script in
        ["status:0", "status:5", "trailers-only:14", "reset:INTERNAL_ERROR", "refused", "disconnect"]
    {
        let spec = CallSpec::new(PAYMENTS, UNARY).header("x-script", script);
        let outcome = client.unary_with(spec, b"ping").await.expect("a call");
        assert_eq!(outcome.is_ok(), script == "status:0", "{script}: {outcome:?}");
    }
    let hangs = CallSpec::new(PAYMENTS, UNARY).header("x-script", "hang").header("grpc-timeout", "50m");
    for (spec, status) in [
        (hangs, 4),
        (CallSpec::new(PAYMENTS, "/bench.Echo/Denied"), 7),
        (CallSpec::new(PAYMENTS, "/bench.Echo/Odd'Method{}"), 7),
        (CallSpec::new(GONE, UNARY), 14),
        (CallSpec::new("nobody.shop", UNARY), 14),
    ] {
        let outcome = client.unary_with(spec, b"ping").await.expect("a call");
        assert_eq!(outcome.grpc_status, Some(status), "{outcome:?}");
    }
    // In strict mode a caller without TLS does not get in.
    let _plain = Client::connect(site.payments.inbound(), None).await;
    until("plaintext is counted", async || {
        let metrics = site.payments.metrics().await.expect("a scrape");
        metrics.value("outrigger_handshake_failures_total", &[]) > 0.0
    })
    .await;
    for sidecar in [&site.orders, &site.payments] {
        let metrics = sidecar.metrics().await.expect("a scrape");
        assert!(metrics.value("outrigger_failures_total", &[]) > 0.0, "nothing failed");
        assert_silent(sidecar, "after calls").await;
    }
}

fn promtool_would_see_a_counter_that_is_named_or_told_badly() {
    for text in [
        "# TYPE calls counter\ncalls 1\n",
        "# HELP calls_total Calls.\n# TYPE calls_total counter\ncalls_total{\n",
    ] {
        let output = check(text);
        assert!(!output.status.success(), "{text}: {}", told(&output));
    }
}

async fn assert_silent(sidecar: &Sidecar, when: &str) {
    let answer = sidecar.probe("/metrics").await.expect("a scrape");
    assert!(answer.body.lines().count() > 20, "{}", answer.body);
    let output = check(&answer.body);
    assert!(output.status.success() && told(&output).is_empty(), "{when}: {}", told(&output));
}

/// `promtool check metrics`.
fn check(text: &str) -> Output {
    let mut command = Command::new(promtool().expect("it was there"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checker = command.spawn().expect("promtool");
    // It reads all before it says a word.
    checker.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("a reader");
    checker.wait_with_output().expect("an end")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn prometheus() -> Result<PathBuf, String> {
    program("OUTRIGGER_PROMETHEUS", &["prometheus"], "--version")
}

fn promtool() -> Result<PathBuf, String> {
    program("OUTRIGGER_PROMTOOL", &["promtool"], "--version")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test);
}
