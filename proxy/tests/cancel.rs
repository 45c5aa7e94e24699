//! Cancelled calls over two sidecars: they end at both ends, and cost their neighbours on the connection
//! nothing, however many they are.

mod pair;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::flow;
use bench::grpc::message;
use bench::process::Sidecar;
use bench::server::Server;
use bench::wait::{soon, until, within};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::task::{JoinSet, LocalSet};

use crate::pair::{
    ANY, BIDI, CLIENT_STREAM, ECHO, Pair, SERVER_STREAM, Site, UNARY, around, mesh, metric, peer,
};

const CANCELLED: usize = 20_000;
const AT_ONCE: usize = 16;
/// By default two seconds, which a handshake may take on a loaded machine.
const PATIENT: &str = "    upstream: {connect_timeout: 20s}";
/// All of it must be over by then, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn twenty_thousand_cancelled_streams_on_one_connection_harm_no_neighbour() {
    let seen = Arc::new(Seen::default());
    let app = {
        let seen = seen.clone();
        peer::app(None, move |request, respond| answer(request, respond, seen.clone())).await
    };
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let over = Rc::new(Cell::new(false));
    let local = LocalSet::new();
    let calling = local.spawn_local(unary_until(client.clone(), over.clone()));
    let conversing = local.spawn_local(converse_until(client.clone(), over.clone()));
    let cancelling = async {
        let mut tasks = JoinSet::new();
        for first in 0..AT_ONCE {
            tasks.spawn_local(cancel_many(client.clone(), first));
        }
        while let Some(cancelled) = tasks.join_next().await {
            cancelled.expect("answers up to the cancel");
        }
        over.set(true);
    };
    within(PATIENCE, "the cancels", local.run_until(cancelling)).await;
    let calls = local.run_until(soon("the unary calls' end", calling)).await.expect("no unary call fails");
    let rounds =
        local.run_until(soon("the stream's end", conversing)).await.expect("the open stream goes on");
    println!("beside {CANCELLED} cancels: {calls} unary calls, {rounds} messages there and back");

    assert!(client.is_open() && calls > 0 && rounds > 0);
    for sidecar in [&caller, &callee] {
        until("the calls' end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
        let refused = metric(sidecar, "outrigger_refused_total", &[]).await;
        let failed = metric(sidecar, "outrigger_failures_total", &[]).await;
        assert_eq!((refused, failed), (0, 0), "{}", sidecar.stderr());
    }
    assert_one_connection_each(&caller, &callee).await;
    until("the app's last call", async || seen.ended() == seen.begun.load(Ordering::Relaxed)).await;
    // Those that were cancelled at once may not have come so far; all others have, and were told.
    let cancelled = seen.cancelled.load(Ordering::Relaxed);
    assert!((CANCELLED as u64 * 3 / 4..=CANCELLED as u64).contains(&cancelled), "{cancelled} at the app");
    assert_eq!(seen.otherwise.load(Ordering::Relaxed), 0, "a cancel is told as CANCEL");
    let method = [("grpc_method", "ServerStream"), ("grpc_code", "Canceled")];
    assert_eq!(metric(&caller, "grpc_client_handled_total", &method).await, CANCELLED as u64);
}

#[tokio::test]
async fn a_caller_whose_connection_is_lost_is_not_taken_for_one_that_resets_without_measure() {
    const OPEN: usize = 30;
    let strict = "limits: {resets_per_second: 1}";
    let begin = async |pair: &[Sidecar; 2]| {
        let client = Client::connect(pair[1].outbound(), None).await.expect("a connection");
        let mut calls = Vec::new();
        for _ in 0..OPEN {
            let spec = CallSpec::new(ECHO, UNARY).header("x-script", "hang");
            calls.push(client.call(spec).await.expect("a call"));
        }
        until("all are there", async || {
            metric(&pair[0], "outrigger_calls_in_flight", &[]).await == OPEN as u64
        })
        .await;
        (client, calls)
    };
    let gone = async |sidecar: &Sidecar| {
        until("all are gone", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
        assert_eq!(metric(sidecar, "outrigger_refused_total", &[]).await, 0);
    };
    let app = Server::start(ANY).await.expect("an app");
    let site = Site::new();

    // An app that dies, as its own sidecar sees it; to the callee's it has cancelled them all.
    let callee = site.callee(app.addr, "").await;
    let caller = site.caller(&mesh(&[callee.inbound()], PATIENT), strict).await;
    let pair = [callee, caller];
    let (client, _calls) = begin(&pair).await;
    client.abort();
    gone(&pair[1]).await;

    // A sidecar that dies, as that of the callee sees it.
    let callee = site.callee(app.addr, strict).await;
    let caller = site.caller(&mesh(&[callee.inbound()], PATIENT), "").await;
    let pair = [callee, caller];
    let (_client, _calls) = begin(&pair).await;
    pair[1].kill();
    gone(&pair[0]).await;
}

/// How the calls that are not answered in full ended at the app.
#[derive(Default)]
struct Seen {
    begun: AtomicU64,
    cancelled: AtomicU64,
    otherwise: AtomicU64,
}

impl Seen {
    fn end(&self, reason: Option<Reason>) {
        let count = if reason == Some(Reason::CANCEL) { &self.cancelled } else { &self.otherwise };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed) + self.otherwise.load(Ordering::Relaxed)
    }
}

/// Echoes; but a server stream never ends after its first three messages.
async fn answer(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Seen>) {
    let endless = request.uri().path() == SERVER_STREAM;
    if endless {
        seen.begun.fetch_add(1, Ordering::Relaxed);
    }
    let reason = match respond.send_response(peer::head(&[]), false) {
        Ok(mut stream) => {
            while let Some(Ok(data)) = request.body_mut().data().await {
                let _ = request.body_mut().flow_control().release_capacity(data.len());
                if !endless && flow::send_all(&mut stream, data, false).await.is_err() {
                    return;
                }
            }
            if !endless {
                let _ = stream.send_trailers(peer::headers(&[("grpc-status", "0")]));
                return;
            }
            for _ in 0..3 {
                let _ = flow::send_all(&mut stream, message(&[1; 8_000]), false).await;
            }
            poll_fn(|cx| stream.poll_reset(cx)).await
        }
        // It was cancelled before it was begun.
        Err(_) => poll_fn(|cx| respond.poll_reset(cx)).await,
    };
    seen.end(reason.ok());
}

/// Begins server streams and cancels them: at once, after the head, after a message, and by forgetting them.
async fn cancel_many(client: Client, first: usize) {
    for number in (first..CANCELLED).step_by(AT_ONCE) {
        let mut call = client.call(CallSpec::new(ECHO, SERVER_STREAM)).await.expect("the connection lives");
        call.sender.send_ending(b"go").await.expect("sent");
        match number / AT_ONCE % 4 {
            0 => call.cancel(),
            1 => {
                assert!(soon("the head", call.headers()).await.is_some(), "{number}");
                call.cancel();
            }
            2 => {
                assert!(soon("a message", call.recv()).await.is_some(), "{number}");
                call.cancel();
            }
            _ => assert!(soon("a message", call.recv()).await.is_some(), "{number}"),
        }
    }
}

async fn unary_until(client: Client, over: Rc<Cell<bool>>) -> u64 {
    let mut calls = 0;
    while !over.get() {
        let outcome =
            soon("a unary call", client.unary(ECHO, UNARY, b"x")).await.expect("the connection lives");
        assert!(outcome.is_ok() && outcome.last.as_deref() == Some(b"x"), "after {calls}: {outcome:?}");
        calls += 1;
    }
    calls
}

async fn converse_until(client: Client, over: Rc<Cell<bool>>) -> u64 {
    let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    let mut rounds = 0_u64;
    while !over.get() {
        call.send(&rounds.to_be_bytes()).await.expect("sent");
        let echo = soon("an echo", call.recv()).await;
        assert_eq!(echo.as_deref(), Some(&rounds.to_be_bytes()[..]));
        rounds += 1;
    }
    let outcome = call.finish().await;
    assert!(outcome.is_ok(), "{outcome:?}");
    rounds
}

async fn assert_one_connection_each(caller: &Sidecar, callee: &Sidecar) {
    for (sidecar, direction) in
        [(caller, "outbound"), (caller, "upstream"), (callee, "inbound"), (callee, "upstream")]
    {
        let opened = metric(sidecar, "outrigger_connections_total", &[("direction", direction)]).await;
        assert_eq!(opened, 1, "{direction}");
    }
}

/// As many as may be open, all of them cancelled before any is answered, again and again.
#[tokio::test]
async fn a_crowd_of_calls_cancelled_in_one_breath_is_no_attack() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    let mut neighbour = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    for round in 0..5 {
        let mut crowd = Vec::new();
        for _ in 0..1_000 {
            let spec = CallSpec::new(ECHO, UNARY).header("x-script", "hang");
            crowd.push(soon("a place", client.call(spec)).await.expect("the connection lives"));
        }
        // The connection writes what was begun; the cancels come right behind.
        tokio::task::yield_now().await;
        drop(crowd);
        neighbour.send(b"x").await.expect("sent");
        assert!(soon("an echo", neighbour.recv()).await.is_some(), "round {round}: {}", client.ended().await);
    }
    let begun = metric(&pair.caller, "grpc_client_started_total", &[("grpc_method", "Unary")]).await;
    assert!(begun >= 2_500, "only {begun} of 5000 calls were on the wire before their cancel");
    assert!(soon("the neighbour's end", neighbour.finish()).await.is_ok());
    for sidecar in [&pair.caller, &pair.callee] {
        until("the calls' end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
    }
    assert_one_connection_each(&pair.caller, &pair.callee).await;
}

#[tokio::test]
async fn a_cancel_by_the_app_ends_both_directions_for_the_caller() {
    let pair = Pair::start().await;
    let client = pair.client().await;
    for path in [BIDI, UNARY] {
        let spec = CallSpec::new(ECHO, path).header("x-script", "reset-after:1:CANCEL");
        let (mut sender, mut receiver) = client.call(spec).await.expect("a call").split();
        sender.send(b"x").await.expect("sent");
        assert_eq!(soon("the echo", receiver.recv()).await.as_deref(), Some(&b"x"[..]), "{path}");
        let outcome = soon("the end", receiver.finish()).await;
        assert_eq!((outcome.grpc_status, outcome.clean_end), (Some(1), true), "{path}: {outcome:?}");
        assert_eq!(soon("the reset", sender.reset_by_peer()).await, Some(Reason::NO_ERROR), "{path}");
    }
    for sidecar in [&pair.caller, &pair.callee] {
        until("the calls' end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
    }
}

#[tokio::test]
async fn a_cancel_amid_an_upload_that_nobody_reads_reaches_the_app() {
    let seen = Arc::new(Seen::default());
    let app = {
        let seen = seen.clone();
        peer::app(None, move |request, mut respond| {
            let seen = seen.clone();
            async move {
                let _unread = request;
                seen.begun.fetch_add(1, Ordering::Relaxed);
                seen.end(poll_fn(|cx| respond.poll_reset(cx)).await.ok());
            }
        })
        .await
    };
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let mut call = client.call(CallSpec::new(ECHO, CLIENT_STREAM)).await.expect("a call");
    until("the call at the app", async || seen.begun.load(Ordering::Relaxed) == 1).await;
    // As much as all windows take: the cancel then overtakes what waits.
    while tokio::time::timeout(Duration::from_millis(500), call.send(&[0; 65_536])).await.is_ok() {}
    call.cancel();
    until("the cancel at the app", async || seen.ended() == 1).await;
    assert_eq!(seen.cancelled.load(Ordering::Relaxed), 1);
    for sidecar in [&caller, &callee] {
        until("the call's end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
    }
}
