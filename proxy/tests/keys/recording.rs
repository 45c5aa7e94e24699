//! Traces and the access log: where spans go, which calls are recorded or logged, and what waits.

use bench::call::CallSpec;
use bench::otlp::{Answer, Collector};
use serde_json::Value;

use crate::kit::{Case, ECHO, Running, Site, UNARY, echo, echoes, open, service, stays_away, until};

cases! {
    "sidecar.tracing.endpoint" => spans_go_where_the_file_says,
    "sidecar.tracing.propagate[]" => a_trace_begins_in_these_headers,
    "sidecar.tracing.sampling.parent" => the_callers_decision_counts_or_does_not,
    "sidecar.tracing.sampling.ratio" => such_a_share_is_recorded,
    "sidecar.tracing.sampling.rate" => no_more_than_that_are_recorded,
    "sidecar.log.access.sample" => such_a_share_is_logged,
    "sidecar.log.access.streams" => a_call_that_goes_on_is_logged_meanwhile,
    "sidecar.limits.spans" => past_the_limit_a_span_is_dropped,
    "sidecar.limits.log_lines" => past_the_limit_a_line_is_dropped,
}

const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

async fn collector() -> Collector {
    Collector::start().await.expect("a collector")
}

/// A sidecar that records for `collector`.
async fn traced(app: &bench::server::Server, collector: &Collector) -> Site {
    let mut site = Site::outbound(&[service("echo", &[app])]);
    site.sidecar["tracing"] = serde_json::json!({"endpoint": collector.url()});
    site
}

async fn call(sidecar: &Running, times: usize) {
    let client = sidecar.client().await;
    for _ in 0..times {
        assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
    }
}

async fn exported(sidecar: &Running) -> f64 {
    sidecar.counter("outrigger_spans_exported_total", &[]).await
}

/// Ends a sidecar, which sends what waits.
async fn end(mut sidecar: Running) {
    sidecar.term();
    sidecar.wait().await.expect("an end");
}

async fn spans_go_where_the_file_says(case: &Case) {
    let (app, first, second) = (echo("app").await, collector().await, collector().await);
    let base = traced(&app, &first).await;
    let changed = case.change(&base, "sidecar tracing endpoint", second.url());
    for (site, counts) in [(&base, [1, 0]), (&changed, [1, 1])] {
        let sidecar = site.start().await;
        call(&sidecar, 1).await;
        end(sidecar).await;
        assert_eq!([first.spans().len(), second.spans().len()], counts);
    }
}

async fn a_trace_begins_in_these_headers(case: &Case) {
    let app = echo("app").await;
    let base = Site::outbound(&[service("echo", &[&app])]);
    let changed = case.change(&base, "sidecar tracing propagate 0", "b3");
    for (site, here, not) in [(&base, "traceparent", "b3"), (&changed, "b3", "traceparent")] {
        app.clear();
        call(&site.start().await, 1).await;
        let headers = &app.calls()[0].headers;
        assert!(headers.contains_key(here) && !headers.contains_key(not), "{headers:?}");
    }
}

async fn the_callers_decision_counts_or_does_not(case: &Case) {
    let (app, collector) = (echo("app").await, collector().await);
    let base = traced(&app, &collector).await;
    let changed = case.change(&base, "sidecar tracing sampling parent", false);
    for (site, spans) in [(&base, 0), (&changed, 1)] {
        let sidecar = site.start().await;
        let spec = CallSpec::new(ECHO, UNARY).header("traceparent", NOT_SAMPLED);
        assert!(sidecar.call(spec).await.is_ok());
        end(sidecar).await;
        assert_eq!(collector.spans().len(), spans);
    }
}

async fn such_a_share_is_recorded(case: &Case) {
    let (app, collector) = (echo("app").await, collector().await);
    let base = traced(&app, &collector).await;
    let changed = case.change(&base, "sidecar tracing sampling ratio", "0%");
    for (site, spans) in [(&base, 20), (&changed, 20)] {
        let sidecar = site.start().await;
        call(&sidecar, 20).await;
        end(sidecar).await;
        assert_eq!(collector.spans().len(), spans, "and none is added by the second");
    }
}

async fn no_more_than_that_are_recorded(case: &Case) {
    let (app, collector) = (echo("app").await, collector().await);
    let base = traced(&app, &collector).await;
    let changed = case.change(&base, "sidecar tracing sampling rate", "1/s");
    let sidecar = base.start().await;
    call(&sidecar, 100).await;
    end(sidecar).await;
    assert_eq!(collector.spans().len(), 100);
    let sidecar = changed.start().await;
    let began = std::time::Instant::now();
    call(&sidecar, 100).await;
    let most = began.elapsed().as_secs() as usize + 2;
    end(sidecar).await;
    assert!((1..=most).contains(&(collector.spans().len() - 100)), "{}", collector.spans().len());
}

/// A sidecar that logs.
fn logging(app: &bench::server::Server) -> Site {
    let mut site = Site::outbound(&[service("echo", &[app])]);
    site.sidecar["log"] = serde_json::json!({"access": {}});
    site
}

async fn line(sidecar: &mut Running) -> Value {
    let line = sidecar.print().await.expect("stdout").expect("a line");
    serde_json::from_str(&line).unwrap_or_else(|fault| panic!("{fault}: {line}"))
}

async fn such_a_share_is_logged(case: &Case) {
    let app = echo("app").await;
    let base = logging(&app);
    let changed = case.change(&base, "sidecar log access sample", "0%");
    let mut before = base.start().await;
    call(&before, 1).await;
    assert_eq!(line(&mut before).await["event"], "end");
    let mut after = changed.start().await;
    call(&after, 1).await;
    assert!(stays_away(after.print()).await);
}

async fn a_call_that_goes_on_is_logged_meanwhile(case: &Case) {
    let app = echo("app").await;
    let base = logging(&app);
    let changed = case.change(&base, "sidecar log access streams", "50ms");
    let mut before = base.start().await;
    let client = before.client().await;
    let _silent = open(&client).await;
    assert!(stays_away(before.print()).await);
    let mut after = changed.start().await;
    let client = after.client().await;
    let mut call = open(&client).await;
    assert_eq!(line(&mut after).await["event"], "open");
    assert!(echoes(&mut call).await);
    assert!(call.finish().await.is_ok());
    until("the end is logged", async || line(&mut after).await["event"] == "end").await;
}

async fn past_the_limit_a_span_is_dropped(case: &Case) {
    let (app, collector) = (echo("app").await, collector().await);
    let base = traced(&app, &collector).await;
    let changed = case.change(&base, "sidecar limits spans", 1);
    let sidecar = base.start().await;
    call(&sidecar, 50).await;
    until("all are exported", async || exported(&sidecar).await == 50.0).await;
    collector.set(Answer::Hang);
    let sidecar = changed.start().await;
    call(&sidecar, 50).await;
    let full = [("reason", "queue_full")];
    let dropped = async || sidecar.counter("outrigger_spans_dropped_total", &full).await;
    until("dropped", async || dropped().await >= 40.0).await;
}

async fn past_the_limit_a_line_is_dropped(case: &Case) {
    let app = echo("app").await;
    let base = logging(&app);
    let changed = case.change(&base, "sidecar limits log_lines", 1);
    // Calls that all end while the log gathers: between two looks at its queue a hundred must fit into it.
    for (site, lost) in [(&base, false), (&changed, true)] {
        let sidecar = site.start().await;
        let client = sidecar.client().await;
        let log = async |name: &str| sidecar.counter(name, &[]).await;
        // On a busy machine the log may look after every call of a hundred, hardly of all hundreds.
        for hundreds in 1..=20 {
            let calls = (0..100).map(|_| client.unary(ECHO, UNARY, b"ping"));
            for outcome in futures_of(calls).await {
                assert!(outcome.is_ok());
            }
            until("all are accounted for", async || {
                log("outrigger_log_lines_total").await + log("outrigger_log_dropped_total").await
                    == f64::from(100 * hundreds)
            })
            .await;
            if !lost || log("outrigger_log_dropped_total").await > 0.0 {
                break;
            }
        }
        assert_eq!(log("outrigger_log_dropped_total").await > 0.0, lost);
    }
}

/// Runs calls at once.
async fn futures_of<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        calls.retain_mut(|call| match call.as_mut().poll(cx) {
            std::task::Poll::Ready(outcome) => {
                done.push(outcome);
                false
            }
            std::task::Poll::Pending => true,
        });
        if calls.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
