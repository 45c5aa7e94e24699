//! Deadlines: what has no time left reaches nobody, a call can take the time of the one that it is made for, and one that
//! has too little of it can be refused at once.

#[path = "faults/kit.rs"]
mod kit;

use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::kit::{ANY, BIDI, Caller, UNARY};

const FAILURES: &str = "outrigger_failures_total";
const SHED: &str = "half of such calls";
/// Less than what such a call has left.
const SOON: Duration = Duration::from_millis(400);

/// A server that lets one call in at a time on each connection.
async fn narrow() -> Server {
    let options = ServerOptions { max_concurrent_streams: 1, ..ServerOptions::default() };
    Server::start_with(ANY, options).await.expect("a server")
}

/// A call that is open and stays so.
async fn open(client: &Client) -> Call {
    let mut call = client.call(CallSpec::new("far", BIDI)).await.expect("a call");
    call.send(b"one").await.expect("sent");
    assert!(soon("its echo", call.recv()).await.is_some());
    call
}

/// Has calls with 300 ms expire behind a full endpoint; then room comes, and only what has time goes there.
async fn expire_behind(server: &Server, client: &Client, full: usize) {
    let mut held = Vec::new();
    for _ in 0..full {
        held.push(open(client).await);
    }
    let mut waiting = JoinSet::new();
    for _ in 0..10 {
        let client = client.clone();
        let spec = CallSpec::new("far", UNARY).header("grpc-timeout", "300m").header("x-nonce", "late");
        waiting.spawn(async move {
            let began = Instant::now();
            (client.unary_with(spec, b"ping").await.expect("a call"), began.elapsed())
        });
    }
    for (outcome, took) in soon("their deadline", waiting.join_all()).await {
        assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
        assert!(took >= Duration::from_millis(250), "{took:?}: not before its time");
    }
    assert_eq!(server.calls().len(), full);
    let patient = client.clone();
    let patient = tokio::spawn(async move { patient.unary("far", UNARY, b"ping").await.expect("a call") });
    assert!(soon("an end", held.remove(0).finish()).await.is_ok());
    assert!(soon("the one that has time", patient).await.expect("a call").is_ok());
    assert_eq!(server.calls().len(), full + 1, "and nobody else");
    assert!(server.calls_with_nonce("late").is_empty());
}

#[tokio::test]
async fn a_call_that_expires_while_it_waits_for_a_full_endpoint_never_reaches_it() {
    let server = narrow().await;
    let caller = Caller::start(&server, "upstream: {connections: 1}").await;
    expire_behind(&server, &caller.client, 1).await;
    let refused =
        caller.metric(FAILURES, &[("direction", "outbound"), ("reason", "DEADLINE_EXCEEDED")]).await;
    assert_eq!(refused, 10);
}

#[tokio::test]
async fn a_call_that_expires_while_it_waits_for_its_app_never_reaches_it() {
    let server = narrow().await;
    let inbound = format!("inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: off}}]\n", server.addr);
    let caller = Caller::start_with(&server, "", &inbound).await;
    let client = Client::connect(caller.sidecar.inbound(), None).await.expect("a connection of the mesh");
    // An app is reached by so many connections at most.
    expire_behind(&server, &client, 16).await;
}

#[tokio::test]
async fn a_call_that_expires_while_its_connection_opens_is_never_sent_on_it() {
    let listener = TcpListener::bind(ANY).await.expect("a listener");
    let addr = listener.local_addr().expect("its address");
    let caller = Caller::start_at(addr, "upstream: {connections: 1, connect_timeout: 20s}", "").await;
    let spec = || CallSpec::new("far", UNARY).header("grpc-timeout", "300m").header("x-nonce", "late");
    for _ in 0..3 {
        let outcome = caller.call(spec()).await;
        assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
    }
    // Now it says its SETTINGS, and takes the one call that still has time.
    let (mut tcp, _) = soon("a connection", listener.accept()).await.expect("a connection");
    tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("SETTINGS");
    let client = caller.client.clone();
    let patient = tokio::spawn(async move { client.unary("far", UNARY, b"ping").await });
    let heads = soon("the end of a request", heads_until_a_request_ends(&mut tcp)).await;
    assert_eq!(heads, 1, "only the call that has time was sent");
    patient.abort();
}

/// Reads the frames of a connection until a request has ended on it; tells how many requests began.
async fn heads_until_a_request_ends(tcp: &mut TcpStream) -> usize {
    const PREFACE: usize = 24;
    tcp.read_exact(&mut [0; PREFACE]).await.expect("the preface");
    let mut heads = 0;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        tcp.read_exact(&mut vec![0; length]).await.expect("its payload");
        let (kind, flags) = (head[3], head[4]);
        heads += usize::from(kind == 1);
        if kind <= 1 && flags & 1 == 1 {
            return heads;
        }
    }
}

/// An app with a sidecar of two workers, which calls `far` with these `deadline`s on behalf of those who call it.
struct Site {
    app: Server,
    far: Server,
    caller: Caller,
}

impl Site {
    async fn start(deadline: &str) -> Self {
        let (app, far) =
            (Server::start(ANY).await.expect("an app"), Server::start(ANY).await.expect("a server"));
        let more =
            format!("workers: 2\ninbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: off}}]\n", app.addr);
        let caller = Caller::start_with(&far, &format!("deadline: {deadline}"), &more).await;
        Self { app, far, caller }
    }

    /// An inbound call of a trace that its app holds, with this deadline if any.
    async fn inbound(&self, trace: (&str, &str), timeout: Option<&str>) -> Call {
        let before = self.app.calls().len();
        let client = Client::connect(self.caller.sidecar.inbound(), None).await.expect("a connection");
        let mut spec = CallSpec::new("near", UNARY).header("x-script", "hang").header(trace.0, trace.1);
        spec.headers.extend(timeout.map(|timeout| ("grpc-timeout", timeout)));
        let call = client.call(spec).await.expect("a call");
        until("the app has it", async || self.app.calls().len() > before).await;
        call
    }

    /// The time that an outbound call has, as its endpoint is told; `None`: as long as it likes. On a connection of its
    /// own, which is another worker's each time.
    async fn granted(&self, headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let client = Client::connect(self.caller.sidecar.outbound(), None).await.expect("a connection");
        let mut spec = CallSpec::new("far", UNARY);
        spec.headers.extend(headers);
        let outcome = soon("a call", client.unary_with(spec, b"ping")).await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
        let seen = self.far.calls().pop().expect("it has come");
        seen.headers.get("grpc-timeout").map(|value| read(value.to_str().expect("text")))
    }
}

/// The value of a `grpc-timeout`.
fn read(value: &str) -> Duration {
    let (digits, unit) = value.split_at(value.len() - 1);
    let count: u64 = digits.parse().expect("digits");
    match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        _ => Duration::from_nanos(count),
    }
}

const W3C: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// Another span of the same trace, as an app's own tracing makes it.
const CHILD: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01");
const B3: (&str, &str) = ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1");
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn a_call_takes_what_is_left_to_the_one_that_it_is_made_for_on_whatever_worker() {
    let site = Site::start("{inherit: true, default: 2h}").await;
    let inbound = site.inbound(W3C, Some("1H")).await;
    let mut before = HOUR;
    for _ in 0..8 {
        let left = site.granted(&[CHILD]).await.expect("a deadline");
        assert!(left <= before && left > HOUR - Duration::from_secs(600), "{left:?} after {before:?}");
        before = left;
    }
    assert_eq!(site.granted(&[CHILD, ("grpc-timeout", "3H")]).await.map(near), Some(3), "its own goes first");
    assert_eq!(site.granted(&[B3]).await.map(near), Some(2), "another trace has the default");
    assert_eq!(site.granted(&[]).await.map(near), Some(2), "none too");
    drop(inbound);
    until("the inbound call is forgotten", async || site.granted(&[CHILD]).await.map(near) == Some(2)).await;
}

/// A time in hours, rounded.
fn near(time: Duration) -> u64 {
    (time.as_secs() + 1_800) / 3_600
}

#[tokio::test]
async fn of_several_calls_of_a_trace_the_latest_deadline_counts_and_none_while_one_has_none() {
    let site = Site::start("{inherit: true, max: 8h}").await;
    let hours = async || site.granted(&[B3]).await.map(near);
    assert_eq!(hours().await, None);
    let _one = site.inbound(B3, Some("1H")).await;
    assert_eq!(hours().await, Some(1));
    let five = site.inbound(B3, Some("5H")).await;
    assert_eq!(hours().await, Some(5));
    let endless = site.inbound(B3, None).await;
    assert_eq!(hours().await, None);
    drop(endless);
    until("the endless one is forgotten", async || hours().await == Some(5)).await;
    let ten = site.inbound(B3, Some("10H")).await;
    assert_eq!(hours().await, Some(8), "`max` caps it");
    drop((five, ten));
    until("the later ones are forgotten", async || hours().await == Some(1)).await;
}

#[tokio::test]
async fn a_call_made_for_one_whose_trace_begins_here_inherits_as_well_and_not_without_the_key() {
    for (deadline, inherits) in [("{inherit: true}", true), ("{max: 9h}", false)] {
        let site = Site::start(deadline).await;
        let client = Client::connect(site.caller.sidecar.inbound(), None).await.expect("a connection");
        let spec = CallSpec::new("near", UNARY).header("x-script", "hang").header("grpc-timeout", "1H");
        let _inbound = client.call(spec).await.expect("a call");
        until("the app has it", async || !site.app.calls().is_empty()).await;
        let told = site.app.calls()[0].headers["traceparent"].to_str().expect("text").to_owned();
        let spec = CallSpec::new("far", UNARY).header("traceparent", &told);
        assert!(site.caller.call(spec).await.is_ok());
        assert_eq!(site.far.calls()[0].headers.contains_key("grpc-timeout"), inherits, "{deadline}");
    }
}

/// Makes so many calls at once that follow a script.
async fn crowd(client: &Client, count: usize, script: &'static str) -> Vec<Outcome> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        let spec = CallSpec::new("far", UNARY).header("x-script", script);
        calls.spawn(async move { client.unary_with(spec, b"ping").await.expect("a call") });
    }
    soon("a crowd", calls.join_all()).await
}

#[tokio::test]
async fn a_call_with_less_time_than_half_of_them_take_is_refused_at_once_until_the_rule_has_healed() {
    let server = Server::start(ANY).await.expect("a server");
    let caller = Caller::start(&server, "deadline: {shed_below_median: true}").await;
    let short =
        |script| CallSpec::new("far", UNARY).header("grpc-timeout", "500m").header("x-script", script);
    // What failed says nothing of how long a call takes, and neither do few.
    assert!(crowd(&caller.client, 200, "trailers-only:5").await.iter().all(|it| it.grpc_status == Some(5)));
    assert!(crowd(&caller.client, 60, "delay:1s").await.iter().all(Outcome::is_ok));
    let is_shed = async |script| caller.call(short(script)).await.message.contains(SHED);
    until("the median is known", async || is_shed("trailers-only:5").await).await;

    let (seen, mut soonest) = (server.calls().len(), Duration::MAX);
    // The best of a few: the others tell how busy the machine is.
    for _ in 0..4 {
        let began = Instant::now();
        let outcome = caller.call(short("hang")).await;
        assert_eq!(outcome.grpc_status, Some(4), "{outcome:?}");
        assert!(outcome.message.starts_with("outrigger outbound: the call has 500ms left"), "{outcome:?}");
        soonest = soonest.min(began.elapsed());
        if soonest < SOON {
            break;
        }
    }
    assert!(soonest < SOON, "it was not waited for: {soonest:?}");
    assert!(caller.call(CallSpec::new("far", UNARY).header("grpc-timeout", "1H")).await.is_ok());
    assert!(caller.call(CallSpec::new("far", UNARY)).await.is_ok());
    assert_eq!(server.calls().len(), seen + 2, "only those that had time");
    assert!(caller.metric(FAILURES, &[("reason", "SHED_BELOW_MEDIAN")]).await >= 2);
    // Nothing passes that would tell of shorter times, and after a while nothing is known.
    until("the rule has healed", async || caller.call(short("status:0")).await.is_ok()).await;
}

#[tokio::test]
async fn a_method_with_a_deadline_of_its_own_is_measured_by_itself() {
    let server = Server::start(ANY).await.expect("a server");
    let policies = "deadline: {shed_below_median: true}\nmethods: {bench.Echo/Bidi: {deadline: {max: 1h}}}";
    let caller = Caller::start(&server, policies).await;
    assert!(crowd(&caller.client, 60, "delay:1s").await.iter().all(Outcome::is_ok));
    let short = |path| CallSpec::new("far", path).header("grpc-timeout", "500m");
    until("the median is known", async || {
        caller.call(short(UNARY).header("x-script", "trailers-only:5")).await.message.contains(SHED)
    })
    .await;
    caller.rewrite("  - name: more\n").await;
    let outcome = caller.call(short(UNARY).header("x-script", "trailers-only:5")).await;
    assert!(outcome.message.contains(SHED), "a change of the mesh forgets nothing: {outcome:?}");
    let outcome = caller.call(short(BIDI)).await;
    assert!(!outcome.message.contains(SHED), "{outcome:?}");
    assert!(open(&caller.client).await.finish().await.is_ok(), "and its calls go on");
}
