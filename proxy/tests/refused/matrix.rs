//! The matrix: every kind of trouble, by every number of endpoints, by every shape of a request. A cell is one
//! call to a service of its own, so that budget, back-off and counters are its own too.

use std::collections::HashSet;
use std::net::SocketAddr;

use bench::call::CallSpec;
use bench::client::Client;
use bench::metrics::Metrics;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::wait::soon;
use bytes::Bytes;

use crate::endpoint::{Fate, Script, Seen};
use crate::pair::{BIDI, ECHO_ID, Site};

/// How many endpoints a service has.
pub(crate) const ENDPOINTS: [usize; 4] = [1, 2, 3, 6];
/// The most endpoints that a call is tried on while it cannot be sent.
pub(crate) const TRIES_MAX: usize = 5;

/// What a request looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// HEADERS with END_STREAM.
    Bare,
    /// One message, and END_STREAM with it.
    Unary,
    /// A stream on which nothing has been sent, and which is open.
    Silent,
    /// One message on an open stream.
    One,
    /// Several, together no more than can be kept.
    Several,
    /// More than can be kept for another attempt.
    TooMuch,
}

pub(crate) const SHAPES: [Shape; 6] =
    [Shape::Bare, Shape::Unary, Shape::Silent, Shape::One, Shape::Several, Shape::TooMuch];

impl Shape {
    fn messages(self) -> Vec<Bytes> {
        let (count, size) = match self {
            Self::Bare | Self::Silent => (0, 0),
            Self::Unary | Self::One => (1, 100),
            Self::Several => (7, 5_000),
            Self::TooMuch => (3, 90_000),
        };
        (0..count).map(|number| vec![number as u8; size].into()).collect()
    }
}

/// What happens to one call, over all endpoints, in this order; the last fate is for ever.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) unreachable: usize,
    pub(crate) fates: Vec<Fate>,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Expected {
    pub(crate) never_sent: u64,
    pub(crate) refused: u64,
    pub(crate) broken: u64,
    pub(crate) answered: u64,
    pub(crate) code: i32,
}

impl Expected {
    /// How often an endpoint has seen the call.
    fn seen(self) -> u64 {
        self.refused + self.broken + self.answered
    }
}

/// All cells of one kind of trouble: `expect` says for a number of endpoints, a shape and a plan what must
/// come. Returns how many cells there were.
pub(crate) async fn run(
    site: &Site,
    what: &str,
    (endpoints, mesh): (&[SocketAddr], bool),
    script: &Script,
    plans: &[Plan],
    expect: impl Fn(usize, Shape, &Plan) -> Expected,
) -> usize {
    let cells: Vec<(usize, Shape, &Plan)> = ENDPOINTS
        .iter()
        .flat_map(|count| SHAPES.iter().map(move |shape| (*count, *shape)))
        .flat_map(|(count, shape)| plans.iter().map(move |plan| (count, shape, plan)))
        .collect();
    let counts = cells.iter().map(|(count, ..)| *count);
    let caller = site.caller(&services(endpoints, counts, mesh), "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    for (number, (count, shape, plan)) in cells.iter().enumerate() {
        let cell = format!("{what}, {count} endpoints, {shape:?}, {plan:?}");
        let expected = expect(*count, *shape, plan);
        script.plan(plan.unreachable, &plan.fates);
        let outcome = soon(&cell, call(&client, number, *shape)).await;
        check(&cell, &outcome, expected);
        check_seen(&cell, &script.seen(), expected, *count, &nonce(number), &shape.messages());
    }
    let metrics = caller.metrics().await.expect("a scrape");
    for (number, (count, shape, plan)) in cells.iter().enumerate() {
        let cell = format!("{what}, {count} endpoints, {shape:?}, {plan:?}");
        assert_eq!(attempts(&metrics, number), expect(*count, *shape, plan).without_code(), "{cell}");
    }
    check_limits(what, &caller, &cells, &expect).await;
    println!("{what}: {} cells", cells.len());
    cells.len()
}

/// A `mesh.yaml` with a service for each cell. By default a connection may take two seconds, which is little on a loaded
/// machine.
pub(crate) fn services(endpoints: &[SocketAddr], counts: impl Iterator<Item = usize>, mesh: bool) -> String {
    let tls = if mesh { "mesh" } else { "none" };
    let mut yaml = "version: 1\nservices:\n  - {name: shopper, namespace: shop}\n".to_owned();
    for (number, count) in counts.enumerate() {
        let listed: Vec<String> = endpoints[..count]
            .iter()
            .map(|address| format!("{{address: \"{address}\", tls: {tls}}}"))
            .collect();
        let listed = listed.join(", ");
        yaml += &format!("  - name: cell-{number}\n    namespace: shop\n    identities: [{ECHO_ID}]\n");
        yaml += &format!("    endpoints: [{listed}]\n    upstream: {{connect_timeout: 20s}}\n");
    }
    yaml
}

fn service(number: usize) -> String {
    format!("cell-{number}.shop")
}

fn nonce(number: usize) -> String {
    format!("nonce-{number}")
}

/// One call, as its client sees it. A stream is left open until the answer is over.
pub(crate) async fn call(client: &Client, number: usize, shape: Shape) -> Outcome {
    let (service, nonce, messages) = (service(number), nonce(number), shape.messages());
    let announced = messages.len().to_string();
    let spec = CallSpec::new(&service, BIDI).header("x-nonce", &nonce).header("x-messages", &announced);
    let spec = CallSpec { end_stream: shape == Shape::Bare, ..spec };
    let (mut sender, receiver) = client.call(spec).await.expect("a call").split();
    for message in messages {
        // An answer may come before the request is over; the outcome tells.
        let _ = match shape {
            Shape::Unary => sender.send_ending(&message).await,
            _ => sender.send(&message).await,
        };
    }
    receiver.finish().await
}

pub(crate) fn check(cell: &str, outcome: &Outcome, expected: Expected) {
    assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(expected.code), true), "{cell}: {outcome:?}");
    assert_eq!(outcome.messages, u64::from(expected.code == 0), "{cell}: {outcome:?}");
    for fields in [Some(&outcome.headers), outcome.trailers.as_ref()].into_iter().flatten() {
        assert!(!fields.contains_key("outrigger-unprocessed"), "{cell}: {outcome:?}");
    }
    if expected.answered == 0 {
        let attempts = expected.never_sent + expected.seen();
        assert!(outcome.message.contains(&format!("attempts {attempts}")), "{cell}: {}", outcome.message);
    }
}

/// Each duplicate is one that the plan asked for, on an endpoint of its own, and whole.
fn check_seen(cell: &str, seen: &Seen, expected: Expected, count: usize, nonce: &str, messages: &[Bytes]) {
    assert_eq!(seen.requests.len() as u64, expected.seen(), "{cell}: {seen:?}");
    assert_eq!(seen.unreachable.len() as u64, expected.never_sent, "{cell}: {seen:?}");
    let mut asked = HashSet::new();
    for request in &seen.requests {
        assert_eq!(request.nonce, nonce, "{cell}");
        assert!(request.messages == messages, "{cell}: the attempt lacks some of its messages");
    }
    for endpoint in seen.unreachable.iter().copied().chain(seen.requests.iter().map(|seen| seen.endpoint)) {
        assert!(endpoint < count, "{cell}: {seen:?}");
        // Only when all have been asked, one may be asked again.
        assert!(asked.insert(endpoint) || asked.len() == count, "{cell}: {seen:?}");
    }
}

impl Expected {
    fn without_code(self) -> Self {
        Self { code: 0, ..self }
    }
}

pub(crate) fn attempts(metrics: &Metrics, number: usize) -> Expected {
    let service = service(number);
    let of = |outcome: &str| {
        metrics.value("outrigger_attempts_total", &[("service", &service), ("outcome", outcome)]) as u64
    };
    assert_eq!(of("abandoned"), 0, "{service}");
    let [never_sent, refused, broken, answered] = ["never_sent", "refused", "broken", "answered"].map(of);
    Expected { never_sent, refused, broken, answered, code: 0 }
}

/// A refused call that was too large to repeat is counted, and no budget was in the way.
async fn check_limits(
    what: &str,
    caller: &Sidecar,
    cells: &[(usize, Shape, &Plan)],
    expect: impl Fn(usize, Shape, &Plan) -> Expected,
) {
    let too_large = cells
        .iter()
        .filter(|(count, shape, plan)| *shape == Shape::TooMuch && expect(*count, *shape, plan).refused > 0)
        .count();
    let metrics = caller.metrics().await.expect("a scrape");
    let refused = |limit: &str| metrics.value("outrigger_refused_total", &[("limit", limit)]) as usize;
    assert_eq!((refused("replay_buffer"), refused("retry_budget")), (too_large, 0), "{what}");
}
