//! Apps and callers who read nothing: they may, for as long as nobody else waits for the window that they take up.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bench::call::{Call, CallSpec};
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::server::{Server, ServerOptions};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

const ECHO: &str = "echo";
/// What has not come by then never comes.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// Twice as many as fill the connection's window, because h2 does not announce every byte of it at once.
const READERS: usize = 8;
const MESSAGE_BYTES: usize = 64 << 10;
const WINDOWS: &str = "stream_window: 64KiB, connection_window: 256KiB";
/// Several times as many as fill it.
const UPLOADS: usize = 16;
/// More than anything on the way can hold.
const MESSAGES: &str = "400";

#[tokio::test]
async fn a_new_call_goes_around_readers_who_stand_still() {
    let site = Site::start("stall_timeout: 1h", "connections: 8").await;
    let readers = site.readers().await;
    let outcome = site.large_answer().await;
    assert!(outcome, "the call waited for others");
    assert_eq!(site.refused().await, 0.0);
    for mut reader in readers {
        assert!(reader.recv().await.is_some(), "it may go on whenever it likes");
    }
}

#[tokio::test]
async fn on_a_connection_that_must_be_shared_readers_who_stand_still_are_ended() {
    let site = Site::start("stall_timeout: 700ms", "connections: 1").await;
    let readers = site.readers().await;
    assert!(site.large_answer().await, "the call still waits for others");
    assert!(site.refused().await >= 1.0);
    let mut ended = 0;
    for reader in readers {
        // Its window is closed, so that trailers cannot reach it: it learns of the end by RST_STREAM.
        let outcome = timeout(PATIENCE, reader.finish()).await.expect("an end");
        ended += usize::from(!outcome.is_ok());
    }
    assert!(ended >= 1, "the reset never came");
}

#[tokio::test]
async fn alone_a_reader_may_stand_still_for_as_long_as_it_likes() {
    let site = Site::start("stall_timeout: 100ms", "connections: 1").await;
    let mut reader = site.reader().await;
    site.held_back().await;
    // Ten times the limit: this one is about time that passes, with nothing to wait for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.refused().await, 0.0);
    let mut messages = 0;
    while let Some(message) = timeout(PATIENCE, reader.recv()).await.expect("the next message") {
        assert_eq!(message.len(), MESSAGE_BYTES);
        messages += 1;
    }
    assert_eq!(messages.to_string(), MESSAGES);
    assert!(reader.finish().await.is_ok());
}

#[tokio::test]
async fn a_new_call_goes_around_a_request_that_the_app_does_not_read() {
    // As many servers have it: one stream may take all of the connection's window.
    let windows = ServerOptions { stream_window: 65_535, connection_window: 65_535, ..Default::default() };
    let site = Site::start_before(windows, "stall_timeout: 1h", "connections: 2").await;
    let mut unread = site.unread().await;
    // It takes the room at once; that this lasts is seen only after a while.
    let began = Instant::now();
    while !timeout(Duration::from_secs(1), site.large_answer()).await.unwrap_or(false) {
        assert!(began.elapsed() < PATIENCE, "every new call waits for the request that is not read");
    }
    assert_eq!(site.connections().await, 2.0);
    assert_eq!(site.refused().await, 0.0);
    unread.cancel();
}

#[tokio::test]
async fn a_request_that_is_not_read_sends_nobody_elsewhere_while_others_get_on() {
    let windows = ServerOptions { stream_window: 65_535, ..Default::default() };
    let site = Site::start_before(windows, "stall_timeout: 1h", "connections: 2").await;
    let mut unread = site.unread().await;
    let client = Client::connect(site.sidecar.outbound(), None).await.expect("a connection");
    let mut talk = client.call(CallSpec::new(ECHO, "/bench.Echo/Bidi")).await.expect("a call");
    // Small messages, none of which ever waits, for longer than what stands still is looked at.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        talk.send(b"still here").await.expect("an open stream");
        assert!(timeout(PATIENCE, talk.recv()).await.expect("no echo").is_some());
    }
    assert!(site.large_answer().await);
    assert_eq!(site.connections().await, 1.0);
    unread.cancel();
}

#[tokio::test]
async fn uploads_that_wait_for_a_place_are_ended_where_they_hold_up_the_one_that_has_it() {
    let site = Site::start_before(one_place(), "stall_timeout: 700ms", "connections: 1").await;
    let client = Client::connect(site.sidecar.outbound(), None).await.expect("a connection");
    let mut first = site.conversation(&client).await;
    let mut waiting = JoinSet::new();
    for _ in 0..UPLOADS {
        waiting.spawn(upload(client.clone()));
    }
    // Sooner or later those that wait have taken all of the window; it must open again.
    let began = Instant::now();
    while site.refused().await == 0.0 {
        assert!(began.elapsed() < PATIENCE, "nobody is held up");
        say(&mut first).await;
    }
    for _ in 0..UPLOADS {
        say(&mut first).await;
    }
    let outcome = timeout(PATIENCE, first.finish()).await.expect("an end");
    assert!(outcome.is_ok(), "{outcome:?}");

    let outcomes = timeout(PATIENCE, waiting.join_all()).await.expect("an end of each");
    let ended = outcomes.iter().filter(|outcome| outcome.grpc_status == Some(8)).count();
    let well = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    println!("of {UPLOADS} uploads that waited, {ended} were ended and {well} went well");
    assert_eq!(ended + well, UPLOADS, "{outcomes:?}");
    assert_eq!(site.refused().await, ended as f64);
    let stalled = [("reason", "READER_STALLED")];
    assert_eq!(site.metric("outrigger_failures_total", &stalled).await, ended as f64);
}

#[tokio::test]
async fn uploads_that_hold_up_nobody_may_wait_for_a_place_as_long_as_they_like() {
    let site = Site::start_before(one_place(), "stall_timeout: 100ms", "connections: 1").await;
    let client = Client::connect(site.sidecar.outbound(), None).await.expect("a connection");
    let first = site.conversation(&client).await;
    let waiting = tokio::spawn(upload(client.clone()));
    site.held_back().await;
    // Ten times the limit: this one is about time that passes, with nothing to wait for.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.refused().await, 0.0);
    assert!(timeout(PATIENCE, first.finish()).await.expect("an end").is_ok());
    let outcome = timeout(PATIENCE, waiting).await.expect("an end").expect("an outcome");
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// An app that takes one call on each connection.
fn one_place() -> ServerOptions {
    ServerOptions { max_concurrent_streams: 1, ..ServerOptions::default() }
}

/// Sends more than a stream's window holds, as far as it gets.
async fn upload(client: Client) -> Outcome {
    let call = client.call(CallSpec::new(ECHO, "/bench.Echo/ClientStream")).await.expect("a call");
    let (mut sender, receiver) = call.split();
    let sending = async {
        // It fails where the call is ended meanwhile, which the outcome tells.
        let _ = sender.send_ending(&vec![7; 2 * MESSAGE_BYTES]).await;
    };
    tokio::join!(sending, receiver.finish()).1
}

/// Sends a message and waits for it to come back.
async fn say(call: &mut Call) {
    let payload = vec![7; MESSAGE_BYTES];
    timeout(PATIENCE, call.send(&payload)).await.expect("the upload stands still").expect("an open stream");
    let echo = timeout(PATIENCE, call.recv()).await.expect("no echo");
    assert_eq!(echo.map(|echo| echo.len()), Some(MESSAGE_BYTES));
}

/// One sidecar between callers and an echo server.
struct Site {
    sidecar: Sidecar,
    _echo: Server,
    _folder: TempDir,
}

impl Site {
    async fn start(limits: &str, upstream: &str) -> Self {
        Self::start_before(ServerOptions::default(), limits, upstream).await
    }

    async fn start_before(server: ServerOptions, limits: &str, upstream: &str) -> Self {
        let echo = Server::start_with(SocketAddr::from(([127, 0, 0, 1], 0)), server).await;
        let echo = echo.expect("an echo server");
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = format!(
            "service: {ECHO}\n\
             workers: 1\n\
             outbound: {{listen: \"127.0.0.1:0\"}}\n\
             admin: {{listen: \"127.0.0.1:0\", socket: admin.sock}}\n\
             probes: {{listen: \"127.0.0.1:0\"}}\n\
             limits: {{{WINDOWS}, {limits}}}\n\
             mesh: {{file: mesh.yaml}}\n"
        );
        let mesh = format!(
            "version: 1\nservices: [{{name: {ECHO}, endpoints: [\"{}\"], \
             upstream: {{connect_timeout: 20s, {upstream}}}}}]\n",
            echo.addr
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger-proxy"));
        let sidecar = Sidecar::start(binary, &sidecar, &mesh, folder.path()).await.expect("a sidecar");
        Self { sidecar, _echo: echo, _folder: folder }
    }

    /// As many as fill the window, all of them on their own connections, and what they left there.
    async fn readers(&self) -> Vec<Call> {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(self.reader().await);
        }
        self.held_back().await;
        readers
    }

    /// Asks for very many messages and fetches none.
    async fn reader(&self) -> Call {
        let client = Client::connect(self.sidecar.outbound(), None).await.expect("a connection");
        let mut spec = CallSpec::new(ECHO, "/bench.Echo/ServerStream").header("x-count", MESSAGES);
        let size = MESSAGE_BYTES.to_string();
        spec = spec.header("x-size", &size);
        let mut call = client.call(spec).await.expect("a call");
        call.send(b"").await.expect("the stream is open");
        call.half_close();
        call
    }

    /// A request that fills what the app lets it have, and is not read.
    async fn unread(&self) -> Call {
        let client = Client::connect(self.sidecar.outbound(), None).await.expect("a connection");
        let spec = CallSpec::new(ECHO, "/bench.Echo/ClientStream").header("x-script", "delay:1000s");
        let mut call = client.call(spec).await.expect("a call");
        // A little more than fits into the app's window; the sidecar takes the rest in.
        call.send(&vec![7; MESSAGE_BYTES]).await.expect("the stream is open");
        call
    }

    /// A stream on which a message has come back.
    async fn conversation(&self, client: &Client) -> Call {
        let mut call = client.call(CallSpec::new(ECHO, "/bench.Echo/Bidi")).await.expect("a call");
        say(&mut call).await;
        call
    }

    /// Connections to the app.
    async fn connections(&self) -> f64 {
        self.metric("outrigger_connections", &[("direction", "upstream")]).await
    }

    /// Waits until no message moves any more.
    async fn held_back(&self) {
        let (mut before, mut same) = (-1.0, 0);
        timeout(PATIENCE, async {
            while same < 20 {
                let metrics = self.sidecar.metrics().await.expect("a scrape");
                let now = metrics.value("grpc_client_msg_received_total", &[]);
                same = if now == before { same + 1 } else { 0 };
                before = now;
                tokio::time::sleep(LOOK).await;
            }
        })
        .await
        .expect("the readers' messages come to a stop");
    }

    /// Whether a call whose answer needs some window gets through.
    async fn large_answer(&self) -> bool {
        let client = Client::connect(self.sidecar.outbound(), None).await.expect("a connection");
        let payload = vec![7; 2 * MESSAGE_BYTES];
        let call = client.unary(ECHO, "/bench.Echo/Unary", &payload);
        timeout(PATIENCE, call).await.is_ok_and(|outcome| outcome.expect("a call").is_ok())
    }

    async fn refused(&self) -> f64 {
        self.metric("outrigger_refused_total", &[("limit", "stall_timeout")]).await
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().await.expect("a scrape").value(name, labels)
    }
}
