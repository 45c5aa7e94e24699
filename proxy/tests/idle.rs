//! `stream.idle` ends a call on which nothing moves, in whatever phase it is, and no other.

use std::path::Path;
use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use bench::wait::{PATIENCE, until};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const IDLE: Duration = Duration::from_millis(1_200);

/// A sidecar whose calls to the echo server may be idle for [`IDLE`].
struct Site {
    client: Client,
    _sidecar: Sidecar,
    server: Server,
    _folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        Self::start_before(ServerOptions::default(), "").await
    }

    /// `policies` are those of the service, one a line.
    async fn start_before(server: ServerOptions, policies: &str) -> Self {
        let server = Server::start_with(([127, 0, 0, 1], 0).into(), server).await.expect("a server");
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = "service: caller\noutbound: {listen: \"127.0.0.1:0\"}\n\
            admin: {listen: \"127.0.0.1:0\", socket: admin.sock}\nprobes: {listen: \"127.0.0.1:0\"}\n\
            mesh: {file: mesh.yaml}\ndrain: {lag: 1ms, deadline: 1s}\n";
        let mesh = format!(
            "version: 1\nservices:\n  - name: caller\n  - name: echo\n    endpoints: [\"{}\"]\n    \
             stream: {{idle: {}ms}}\n{policies}",
            server.addr,
            IDLE.as_millis()
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, sidecar, &mesh, folder.path()).await.expect("a sidecar");
        let client = Client::connect(sidecar.outbound(), None).await.expect("a connection");
        Self { client, _sidecar: sidecar, server, _folder: folder }
    }

    async fn stream(&self, script: &str) -> Call {
        let spec = CallSpec::new("echo", "/bench.Echo/Bidi").header("x-script", script);
        self.client.call(spec).await.expect("a call")
    }
}

/// The call ends as idle, and not before it was; something moved after `began`.
async fn ends_as_idle(mut call: Call, began: Instant, phase: &str) {
    assert_eq!(timeout(PATIENCE, call.recv()).await.expect("an end in time"), None);
    let outcome = timeout(PATIENCE, call.finish()).await.expect("an end in time");
    assert_eq!(outcome.grpc_status, Some(14), "{outcome:?}");
    assert!(outcome.message.contains("idle") && outcome.message.contains(phase), "{}", outcome.message);
    assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends() {
    let site = Site::start().await;
    let mut call = site.stream("delay:0ms").await;
    let began = Instant::now();
    call.send(b"hello").await.expect("it is open");
    assert_eq!(timeout(PATIENCE, call.recv()).await.expect("an echo").as_deref(), Some(&b"hello"[..]));
    ends_as_idle(call, began, "phase stream").await;
}

#[tokio::test]
async fn a_stream_whose_endpoint_never_answers_ends_too() {
    let site = Site::start().await;
    let mut call = site.stream("hang").await;
    let began = Instant::now();
    call.send(b"hello").await.expect("it is open");
    ends_as_idle(call, began, "phase response").await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_place_ends_too() {
    let one = ServerOptions { max_concurrent_streams: 1, ..ServerOptions::default() };
    // The one that has the place may be silent.
    let policies = "    upstream: {connections: 1, connect_timeout: 20s}\n    \
        methods: {bench.Echo/ClientStream: {stream: {idle: 1h}}}\n";
    let site = Site::start_before(one, policies).await;
    let spec = CallSpec::new("echo", "/bench.Echo/ClientStream").header("x-script", "hang");
    let _holder = site.client.call(spec).await.expect("a call");
    until("it gets its place", async || !site.server.calls().is_empty()).await;
    let mut waiting = site.stream("delay:0ms").await;
    let began = Instant::now();
    waiting.send(b"hello").await.expect("it is open");
    ends_as_idle(waiting, began, "phase connect").await;
    assert_eq!(site.server.calls().len(), 1);
}

#[tokio::test]
async fn a_stream_that_moves_in_one_direction_is_not_idle_though_nothing_comes_back() {
    let site = Site::start().await;
    let mut call = site.stream("hang").await;
    let began = Instant::now();
    let mut moved = began;
    while began.elapsed() < 2 * IDLE {
        sleep(IDLE / 10).await;
        let now = Instant::now();
        if call.send(b"hello").await.is_err() {
            // Where the machine stood still for so long, it was idle indeed.
            assert!(moved.elapsed() >= IDLE, "ended {:?} after a message", moved.elapsed());
            return;
        }
        moved = now;
    }
    ends_as_idle(call, moved, "phase response").await;
}
