//! What the exporter sends, and what becomes of what it cannot send.

use std::sync::Arc;
use std::time::Duration;

use bench::otlp::{Answer, Collector};
use config::model::Dns;
use files::Reports;
use tokio::time::Instant;

use crate::control::lookup::Lookups;
use crate::control::otlp::client::Client;
use crate::control::otlp::exporter::{Exporter, crowd};
use crate::control::otlp::settings::read;
use crate::failure::Reason;
use crate::grpc::status::Code;
use crate::metrics::calls::Direction;
use crate::metrics::events::Outcome;
use crate::record::call::{AttemptRecord, CallRecord, End, Moved};
use crate::record::queue::queue;
use crate::record::{Fates, Lost};
use crate::trace::context::{Formats, Incoming, Span};

/// A record that is as long as one can be.
fn longest() -> CallRecord {
    let text = |bytes: usize| "x".repeat(bytes).into_boxed_str();
    let attempt = AttemptRecord {
        endpoint: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
        outcome: Outcome::Answered,
        reason: text(256),
        began_after: Duration::from_secs(1),
        ended_after: Duration::from_secs(2),
        resend: true,
    };
    let mut random = fastrand::Rng::with_seed(1);
    CallRecord {
        span: Span::settle(&Incoming::default(), Formats::default(), &mut random, |_| true),
        state: Some(text(512)),
        direction: Direction::Inbound,
        service: text(127),
        method: text(256),
        http: None,
        peer: Some(text(2_048)),
        route: None,
        authorization: Some(text(128)),
        audit: Some(text(128)),
        began_unix: Duration::from_secs(1),
        took: Duration::from_secs(1),
        head_after: Some(Duration::from_secs(1)),
        attempts: vec![attempt; 16],
        request: Moved::default(),
        response: Moved::default(),
        end: Some(End { code: Code::Internal, failure: Some((Reason::Refused, text(1_024))) }),
    }
}

/// An exporter that sends to `collector`, with `calls` in its queue, and what becomes of them.
fn exporter(collector: &Collector, calls: usize) -> (Exporter, Arc<Fates>) {
    let url = collector.url();
    let text = "service: orders\nmesh: {file: mesh.yaml}\noutbound: {}\n";
    let sidecar = config::parse_sidecar(config::Source { name: "sidecar.yaml", text }).unwrap();
    let settings = read(&sidecar, |name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(url.clone().into()),
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" => Some("2048".into()),
        _ => None,
    });
    let settings = settings.unwrap().settings.unwrap();
    let client = Client::new(&settings, Lookups::new(&Dns::default())).unwrap();
    let (queue, outlet) = queue(settings.bound, crowd(&settings));
    for _ in 0..calls {
        assert!(queue.offer(Arc::new(longest())));
    }
    let fates = Arc::new(Fates::default());
    (
        Exporter::start(settings, client, outlet, fates.clone(), Reports::start("outrigger-proxy").unwrap()),
        fates,
    )
}

#[tokio::test]
async fn spans_that_are_too_much_for_one_export_go_in_several() {
    const CALLS: usize = 700;
    let collector = Collector::start().await.unwrap();
    let (exporter, fates) = exporter(&collector, CALLS);
    exporter.finish().await;
    let exports = collector.exports();
    let (spans, longest) = (collector.spans().len(), exports.iter().map(|export| export.bytes).max());
    assert_eq!((spans, fates.exported.value()), (CALLS, CALLS as u64));
    // Collectors take four MiB unless they are told otherwise.
    assert!(exports.len() >= 3 && longest.unwrap() < 4 << 20, "{} exports, {longest:?} bytes", exports.len());
}

#[tokio::test]
async fn what_does_not_arrive_before_the_end_is_counted_and_waited_for_two_seconds_at_most() {
    let collector = Collector::start().await.unwrap();
    collector.set(Answer::Hang);
    let (exporter, fates) = exporter(&collector, 3);
    let asked = Instant::now();
    exporter.finish().await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!((fates.lost[Lost::Exit as usize].value(), fates.exported.value()), (3, 0));
}
