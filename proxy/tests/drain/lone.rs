//! One sidecar between two echo servers: its app, and a service far away that the app calls through it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::process::Sidecar;
use bench::server::Server;
pub(crate) use bench::wait::{PATIENCE, until};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_outrigger-proxy");

pub(crate) struct Lone {
    pub(crate) sidecar: Sidecar,
    pub(crate) folder: TempDir,
    _app: Server,
    _far: Server,
}

impl Lone {
    /// Starts a sidecar with `drain: {DRAIN}`.
    pub(crate) async fn start(drain: &str) -> Self {
        let app = Server::start(anywhere()).await.expect("the app");
        let far = Server::start(anywhere()).await.expect("the service far away");
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = format!(
            "service: near\n\
             inbound: [{{listen: \"127.0.0.1:0\", app: \"{}\", mtls: off}}]\n\
             outbound: {{listen: \"127.0.0.1:0\"}}\n\
             admin: {{listen: \"127.0.0.1:0\", socket: sidecar.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\n\
             mesh: {{file: mesh.yaml}}\n\
             drain: {{{drain}}}\n",
            app.addr
        );
        let mesh = format!(
            "version: 1\nservices:\n  - name: near\n  - {{name: far, endpoints: [\"{}\"]}}\n",
            far.addr
        );
        let sidecar = Sidecar::start(BINARY.as_ref(), &sidecar, &mesh, folder.path()).await;
        Self { sidecar: sidecar.expect("a sidecar"), folder, _app: app, _far: far }
    }

    /// `outrigger-proxy drain`, on the files of this sidecar.
    pub(crate) async fn drain(&self) {
        let output = drain(self.folder.path()).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), "draining\n"), "{}", output.stderr);
    }

    /// Waits until no inbound connection is accepted any more, which is when the lag is over.
    pub(crate) async fn inbound_closes(&self) {
        let inbound = self.sidecar.inbound();
        let refused = async || TcpStream::connect(inbound).await.is_err();
        until("inbound no longer accepts", refused).await;
    }

    /// Waits until `/ready` says 503.
    pub(crate) async fn readiness_fails(&self) {
        let failed = async || self.sidecar.probe("/ready").await.is_ok_and(|answer| answer.status == 503);
        until("/ready fails", failed).await;
    }

    /// Waits for the end and returns how long it took.
    pub(crate) async fn ends_well(&mut self) -> Duration {
        let began = Instant::now();
        let status = timeout(PATIENCE, self.sidecar.wait()).await.expect("it ends").expect("a status");
        assert!(status.success(), "{status}: {}", self.sidecar.stderr());
        began.elapsed()
    }

    /// A stream through the app and back, with one message echoed.
    pub(crate) async fn inbound_stream(&self) -> Call {
        stream(self.sidecar.inbound(), "near").await
    }

    /// A stream of the app's to the service far away, with one message echoed.
    pub(crate) async fn outbound_stream(&self) -> Call {
        stream(self.sidecar.outbound(), "far").await
    }
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `outrigger-proxy drain sidecar.yaml` in a folder.
pub(crate) async fn drain(folder: &Path) -> Said {
    said(&["drain", "sidecar.yaml"], folder).await
}

/// Runs `outrigger-proxy` to its end, which must be near.
pub(crate) async fn said(args: &[&str], folder: &Path) -> Said {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(folder).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("our own binary");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let code = ExitStatus::code(&output.status);
    Said { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// One unary call over a new connection; panics unless it goes well.
pub(crate) async fn call(at: SocketAddr, service: &str) {
    let client = Client::connect(at, None).await.expect("a connection");
    let call = timeout(PATIENCE, client.unary(service, "/bench.Echo/Unary", b"hello"));
    let outcome = call.await.expect("an answer in time").expect("a call");
    assert!(outcome.is_ok(), "{outcome:?}");
}

async fn stream(at: SocketAddr, service: &str) -> Call {
    let client = Client::connect(at, None).await.expect("a connection");
    let mut call = client.call(CallSpec::new(service, "/bench.Echo/Bidi")).await.expect("a call");
    echoed(&mut call).await;
    call
}

/// Sends a message on a stream and waits for it to come back.
pub(crate) async fn echoed(call: &mut Call) {
    call.send(b"hello").await.expect("the stream is open");
    let message = timeout(PATIENCE, call.recv()).await.expect("an echo in time");
    assert_eq!(message.as_deref(), Some(&b"hello"[..]));
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
