//! Endpoints that go silent: nothing is refused, nothing is closed, nothing comes back. The first call that runs out of time
//! there is the last one that is sent there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bench::call::CallSpec;
use bench::certs::{Ca, write_identity};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::tls::ServerTls;
use bench::wait::{soon, until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const ECHO: &str = "echo.shop";
const UNARY: &str = "/bench.Echo/Unary";
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const OK: Option<i32> = Some(0);
const DEADLINE_EXCEEDED: Option<i32> = Some(4);
const UNAVAILABLE: Option<i32> = Some(14);
/// Of these, some would land on every endpoint.
const CALLS: usize = 30;

/// A wire before a server that can be frozen: new connections are made, and nothing passes.
struct Wire {
    addr: SocketAddr,
    frozen: watch::Sender<bool>,
    accepted: Arc<AtomicUsize>,
}

impl Wire {
    async fn before(server: &Server) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a listener");
        let (addr, to) = (listener.local_addr().expect("an address"), server.addr);
        let (frozen, accepted) = (watch::Sender::new(false), Arc::<AtomicUsize>::default());
        let (count, state) = (accepted.clone(), frozen.subscribe());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let far = TcpStream::connect(to).await.expect("the server");
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, state.clone()));
                tokio::spawn(pass(far_in, near_out, state.clone()));
            }
        });
        Self { addr, frozen, accepted }
    }

    fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if frozen.wait_for(|frozen| !frozen).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// The sidecar of `caller.shop`, and what it needs.
struct Site {
    sidecar: Sidecar,
    client: Client,
    _dir: TempDir,
}

impl Site {
    /// `echo.shop` has these endpoints and these words more.
    async fn start(endpoints: &[SocketAddr], more: &str, ca: Option<&Ca>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut yaml = "service: caller\nnamespace: shop\nworkers: 1\n\
             admin: {listen: \"127.0.0.1:0\", socket: admin.sock}\nprobes: {listen: \"127.0.0.1:0\"}\n\
             outbound: {listen: \"127.0.0.1:0\"}\nmesh: {file: mesh.yaml}\ndrain: {lag: 1ms, deadline: 1s}\n"
            .to_owned();
        if let Some(ca) = ca {
            write_identity(dir.path(), &ca.leaf(&id("caller")), ca.bundle_pem()).expect("an identity");
            yaml += "identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}\n";
        }
        let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        let mesh = format!(
            "version: 1\nservices:\n  - {{name: caller, namespace: shop}}\n  - name: echo\n    namespace: shop\n    \
             balancing: {{policy: round_robin}}\n    endpoints: [{}]\n{more}",
            endpoints.join(", ")
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, &yaml, &mesh, dir.path()).await.expect("a sidecar");
        let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
        Self { sidecar, client, _dir: dir }
    }

    /// A call with a little time.
    async fn call(&self, script: &str) -> Outcome {
        self.call_within("1S", script).await
    }

    async fn call_within(&self, time: &str, script: &str) -> Outcome {
        let spec = CallSpec::new(ECHO, UNARY).header("grpc-timeout", time).header("x-script", script);
        soon("a call", self.client.unary_with(spec, b"ping")).await.expect("a call")
    }

    /// Where a call lands that goes well.
    async fn lands(&self) -> String {
        let outcome = self.call_within("20S", "delay:0ms").await;
        assert_eq!(outcome.grpc_status, OK, "{outcome:?}");
        outcome.headers["x-server"].to_str().expect("a name").to_owned()
    }

    async fn lands_on(&self, name: &str) {
        until(format!("a call lands on {name}"), async || self.lands().await == name).await;
    }

    async fn suspected(&self) -> f64 {
        self.sidecar.metrics().await.expect("a scrape").value("outrigger_connections_suspected_total", &[])
    }
}

async fn serve(name: &str, tls: Option<&Ca>) -> Server {
    let tls = tls
        .map(|ca| ServerTls { leaf: ca.leaf(&id("echo")), client_trust: Some(ca.bundle_pem().to_owned()) });
    let options = ServerOptions { name: name.to_owned(), tls, ..ServerOptions::default() };
    Server::start_with(ANY, options).await.expect("a server")
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

/// One of two endpoints goes silent and comes back.
async fn one_of_two(ca: Option<&Ca>) {
    let (silent, good) = (serve("silent", ca).await, serve("good", ca).await);
    let wire = Wire::before(&silent).await;
    let site = Site::start(&[wire.addr, good.addr], "", ca).await;
    for name in ["silent", "good"] {
        site.lands_on(name).await;
    }
    wire.freeze(true);
    let mut failed = 0;
    for _ in 0..CALLS {
        let outcome = site.call("delay:0ms").await;
        if outcome.grpc_status != OK {
            assert_eq!(outcome.grpc_status, DEADLINE_EXCEEDED, "{outcome:?}");
            failed += 1;
        }
    }
    assert_eq!(failed, 1, "the first call that runs out of time is the last one there");
    assert_eq!(site.suspected().await, 1.0);
    until("somebody finds out whether it is back", async || wire.accepted() > 1).await;
    wire.freeze(false);
    site.lands_on("silent").await;
}

#[tokio::test]
async fn the_first_call_that_runs_out_of_time_on_a_silent_connection_is_the_last_one_there() {
    one_of_two(None).await;
}

#[tokio::test]
async fn between_sidecars_too() {
    one_of_two(Some(&Ca::new("cluster.local"))).await;
}

#[tokio::test]
async fn hedged_calls_find_it_too_though_none_of_them_runs_out_of_time() {
    let (silent, good) = (serve("silent", None).await, serve("good", None).await);
    let wire = Wire::before(&silent).await;
    let more = "    hedging: {hedging_delay: 1s, max_attempts: 2}\n";
    let site = Site::start(&[wire.addr, good.addr], more, None).await;
    for name in ["silent", "good"] {
        site.lands_on(name).await;
    }
    wire.freeze(true);
    until("it is suspected", async || site.lands().await == "good" && site.suspected().await == 1.0).await;
    let hedges = async || {
        let scrape = site.sidecar.metrics().await.expect("a scrape");
        scrape.value("outrigger_attempts_total", &[("outcome", "outrun")])
    };
    let before = hedges().await;
    for _ in 0..CALLS {
        assert_eq!(site.lands().await, "good");
    }
    assert_eq!(hedges().await, before, "nobody has to be faster than it any more");
}

#[tokio::test]
async fn a_sidecar_that_answers_a_ping_keeps_its_connection_however_slow_its_app_is() {
    let ca = Ca::new("cluster.local");
    let server = serve("slow", Some(&ca)).await;
    let site = Site::start(&[server.addr], "", Some(&ca)).await;
    // What belongs to the beginning of a connection is no sign of life later on.
    site.lands_on("slow").await;
    for round in 1..=3 {
        assert_eq!(site.call("hang").await.grpc_status, DEADLINE_EXCEEDED);
        assert_eq!(site.suspected().await, f64::from(round));
        site.lands_on("slow").await;
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_plain_endpoint_that_is_only_slow_is_called_on_another_connection() {
    let server = serve("slow", None).await;
    let site = Site::start(&[server.addr], "", None).await;
    site.lands_on("slow").await;
    assert_eq!(site.call("hang").await.grpc_status, DEADLINE_EXCEEDED);
    for _ in 0..CALLS {
        site.lands_on("slow").await;
    }
    assert_eq!(server.accepted(), 2);
    until("the first one is closed", async || server.open_connections() == 1).await;
}

#[tokio::test]
async fn a_busy_connection_is_not_suspected_by_a_call_that_runs_out_of_time() {
    let server = serve("busy", None).await;
    let site = Site::start(&[server.addr], "", None).await;
    site.lands_on("busy").await;
    let mut hanging = std::pin::pin!(site.call("hang"));
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut hanging => break outcome,
            _ = site.lands() => {}
        }
    };
    assert_eq!(outcome.grpc_status, DEADLINE_EXCEEDED);
    site.lands_on("busy").await;
    assert_eq!((site.suspected().await, server.accepted()), (0.0, 1));
}

#[tokio::test]
async fn a_silent_sidecar_is_asked_at_once_and_given_up_with_all_its_calls() {
    let ca = Ca::new("cluster.local");
    let server = serve("silent", Some(&ca)).await;
    let wire = Wire::before(&server).await;
    // No PING would be due for long.
    let more = "    upstream: {keepalive: {interval: 1h, timeout: 300ms}}\n";
    let site = Site::start(&[wire.addr], more, Some(&ca)).await;
    let mut call = site.client.call(CallSpec::new(ECHO, "/bench.Echo/Bidi")).await.expect("a call");
    call.send(b"ping").await.expect("a stream");
    assert!(soon("an echo", call.recv()).await.is_some());
    wire.freeze(true);
    assert_eq!(site.call("delay:0ms").await.grpc_status, DEADLINE_EXCEEDED);
    let outcome = soon("its end", call.receiver.finish()).await;
    assert_eq!(outcome.grpc_status, UNAVAILABLE, "{outcome:?}");
    assert!(outcome.message.contains("did not answer a PING within 300ms"), "{}", outcome.message);
    wire.freeze(false);
    until("it is there again", async || site.call("delay:0ms").await.grpc_status == OK).await;
}
