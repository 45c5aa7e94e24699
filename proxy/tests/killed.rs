//! An app that dies in mid-stream two hundred times, and sidecars that die by SIGKILL: every stream ends
//! UNAVAILABLE in time, none ends well, and what came before is what was sent.

mod pair;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench::call::{Call, CallReceiver, CallSender, CallSpec};
use bench::client::Client;
use bench::grpc;
use bench::outcome::Outcome;
use bench::raw::{self, PREFACE, kind};
use bench::server::{Server, ServerOptions};
use bench::wait::{soon, until};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::pair::peer::{Peer, raw as raw_peer};
use crate::pair::{ANY, BIDI, ECHO, Site, UNARY, around, mesh, metric};

const KILLS: usize = 200;
/// Calls that are open on the connection that is killed.
const STREAMS: usize = 3;
/// What the app answers to each of them, in bytes of a message.
const SIZES: [usize; 4] = [300, 0, 1, 5_000];
const LAST: usize = SIZES.len() - 1;
/// Messages that a caller sends while it listens; more than the app ever reads.
const SENT_MAX: usize = 10_000;
/// Far above what an end takes, far below what a hang does.
const END_MAX: Duration = Duration::from_secs(10);

/// By default a connection has two seconds, which a handshake may take on a loaded machine.
const POLICIES: &str = "    balancing: {policy: round_robin}\n    upstream: {connect_timeout: 20s}";

#[tokio::test]
async fn an_app_killed_in_mid_stream_200_times_never_ends_a_call_well_nor_late() {
    let app = App::start().await;
    let (_site, callee, caller) = around(app.peer.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let (mut slowest, mut messages) = (Duration::ZERO, 0);
    for number in 0..KILLS {
        let death = Death::new(number);
        let (took, received) = soon(format!("{number}: {death:?}"), kill(&app, &client, death)).await;
        slowest = slowest.max(took);
        messages += received;
    }

    let calls = KILLS * STREAMS;
    assert_eq!(app.requests.load(Ordering::Relaxed), calls, "each call reached the app once");
    assert_eq!(app.connections.load(Ordering::Relaxed), KILLS, "each death was another connection's");
    let lost = [("direction", "inbound"), ("reason", "CONNECTION_LOST")];
    assert_eq!(metric(&callee, "outrigger_failures_total", &lost).await, calls as u64);
    // A call is in flight until its last bytes have left, since the drain goes by that: its caller may know a moment before.
    for sidecar in [&caller, &callee] {
        let in_flight = async || metric(sidecar, "outrigger_calls_in_flight", &[]).await;
        until("no call is in flight", async || in_flight().await == 0).await;
    }
    let handled = [("service", ECHO), ("grpc_code", "Unavailable")];
    let handled = async || metric(&caller, "grpc_client_handled_total", &handled).await;
    until("each is counted", async || handled().await >= calls as u64).await;
    assert_eq!(handled().await, calls as u64, "and once");
    for sidecar in [&caller, &callee] {
        assert_eq!(metric(sidecar, "outrigger_flush_resets_total", &[]).await, 0);
    }
    println!("{KILLS} kills: {calls} calls UNAVAILABLE, {messages} messages before, the slowest {slowest:?}");
}

#[tokio::test]
async fn a_sidecar_killed_in_mid_stream_ends_its_own_streams_unavailable_and_no_other() {
    const CALLEES: usize = 5;
    let site = Site::new();
    let (mut apps, mut callees) = (Vec::new(), Vec::new());
    for number in 0..CALLEES {
        let options = ServerOptions { name: number.to_string(), ..ServerOptions::default() };
        let app = Server::start_with(ANY, options).await.expect("an app");
        callees.push(site.callee(app.addr, "").await);
        apps.push(app);
    }
    let endpoints: Vec<_> = callees.iter().map(|callee| callee.inbound()).collect();
    let caller = site.caller(&mesh(&endpoints, POLICIES), "workers: 1").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let mut open: Vec<(usize, Call)> = Vec::new();
    for _ in 0..2 * CALLEES {
        let mut call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        let head = soon("the head", call.headers()).await.expect("a head");
        let at = head["x-server"].to_str().expect("ASCII").parse().expect("a number");
        assert!(echoes(&mut call).await);
        open.push((at, call));
    }

    // One is left to take the calls that follow a death.
    for (dead, callee) in callees.iter_mut().enumerate().skip(1) {
        callee.kill();
        let (its, others): (Vec<_>, Vec<_>) = open.into_iter().partition(|(at, _)| *at == dead);
        assert_eq!(its.len(), 2, "round robin: two streams for each");
        let began = Instant::now();
        for (_, call) in its {
            let outcome = soon("the end of a stream", call.receiver.finish()).await;
            assert!(outcome.clean_end && outcome.trailers.is_some(), "{outcome:?}");
            let ended = (outcome.grpc_status, outcome.messages, outcome.cut_in_message);
            assert_eq!(ended, (Some(14), dead as u64, false), "one echo before each death");
        }
        assert!(began.elapsed() < END_MAX, "{:?}", began.elapsed());
        open = others;
        for (at, call) in &mut open {
            assert!(echoes(call).await, "{at} lives, and {dead} died");
        }
        let outcome = soon("a new call", client.unary(ECHO, UNARY, b"x")).await.expect("a call");
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    for (_, call) in open {
        assert!(soon("a good end", call.finish()).await.is_ok());
    }
}

async fn echoes(call: &mut Call) -> bool {
    call.send(b"x").await.is_ok() && soon("an echo", call.recv()).await.is_some()
}

/// Opens the calls of one life of the app, has it die, and looks at each end; returns how long the ends took
/// and how many whole messages had come before.
async fn kill(app: &App, client: &Client, death: Death) -> (Duration, usize) {
    let (at_place, reached) = oneshot::channel();
    let (die, dying) = oneshot::channel();
    app.lives.lock().expect("nobody panics with it held").push_back(Life { death, at_place, dying });
    let mut receivers = Vec::new();
    for _ in 0..STREAMS {
        let call = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
        let (sender, receiver) = call.split();
        tokio::spawn(keep_sending(sender));
        receivers.push((receiver, 0));
    }
    reached.await.expect("the app has answered as far as it will");
    if death.patient {
        for (receiver, received) in &mut receivers {
            if death.place != Place::BeforeHead {
                assert!(receiver.headers().await.is_some(), "{death:?}: the head");
            }
            receive(receiver, received, death.messages()).await;
        }
    }
    let began = Instant::now();
    die.send(()).expect("the app lives");
    let mut total = 0;
    for (mut receiver, mut received) in receivers {
        receive(&mut receiver, &mut received, usize::MAX).await;
        let outcome = receiver.finish().await;
        death.check(&outcome, received);
        total += received;
    }
    let took = began.elapsed();
    assert!(took < END_MAX, "{death:?}: {took:?}");
    (took, total)
}

/// A caller that talks until nobody listens.
async fn keep_sending(mut sender: CallSender) {
    for _ in 0..SENT_MAX {
        if sender.send(&[7; 100]).await.is_err() {
            return;
        }
    }
}

/// Receives up to `want` messages, and holds each against what was sent.
async fn receive(receiver: &mut CallReceiver, received: &mut usize, want: usize) {
    while *received < want {
        let Some(message) = receiver.recv().await else { return };
        assert!(message == payload(*received), "message {received} is not the one that was sent");
        *received += 1;
    }
}

fn payload(number: usize) -> Bytes {
    (0..SIZES[number]).map(|at| (at * 7 + number) as u8).collect()
}

/// How far the app comes with its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    BeforeHead,
    AfterHead,
    BetweenMessages,
    /// At the end of a DATA frame that holds half a message.
    InMessage,
    /// In the middle of a DATA frame.
    InFrame,
}

const PLACES: [Place; 5] =
    [Place::BeforeHead, Place::AfterHead, Place::BetweenMessages, Place::InMessage, Place::InFrame];

#[derive(Clone, Copy, Debug)]
struct Death {
    place: Place,
    /// By RST; else by FIN, with no END_STREAM.
    reset: bool,
    /// Only when the caller has the head and all whole messages; else as soon as they are written.
    patient: bool,
}

impl Death {
    fn new(number: usize) -> Self {
        let variant = number / PLACES.len();
        Self {
            place: PLACES[number % PLACES.len()],
            reset: variant.is_multiple_of(2),
            patient: (variant / 2).is_multiple_of(2),
        }
    }

    /// Whole messages before the end.
    fn messages(self) -> usize {
        match self.place {
            Place::BeforeHead | Place::AfterHead => 0,
            Place::BetweenMessages => SIZES.len(),
            Place::InMessage | Place::InFrame => LAST,
        }
    }

    fn check(self, outcome: &Outcome, received: usize) {
        let status = (outcome.grpc_status, outcome.clean_end, outcome.reset);
        assert_eq!(status, (Some(14), true, None), "{self:?}: {outcome:?}");
        assert!(outcome.message.contains("connection"), "{self:?}: {}", outcome.message);
        assert_eq!(outcome.trailer("outrigger-unprocessed"), None, "{self:?}: the app had the call");
        // What an impatient RST overtakes is lost in the kernel; what is delivered is a prefix all the same.
        if self.patient || !self.reset {
            assert_eq!(received, self.messages(), "{self:?}: {outcome:?}");
            assert_eq!(outcome.trailers.is_some(), self.place != Place::BeforeHead, "{self:?}: {outcome:?}");
        }
        match self.place {
            Place::InMessage if !self.reset => assert!(outcome.cut_in_message, "{self:?}: {outcome:?}"),
            Place::InMessage => {}
            _ => assert!(!outcome.cut_in_message, "{self:?}: {outcome:?}"),
        }
    }
}

/// One connection's life.
struct Life {
    death: Death,
    /// Told when all has been written that will be.
    at_place: oneshot::Sender<()>,
    dying: oneshot::Receiver<()>,
}

/// An app that writes its frames by hand, so that it can stop inside one.
struct App {
    peer: Peer,
    lives: Arc<Mutex<VecDeque<Life>>>,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl App {
    async fn start() -> Self {
        let lives: Arc<Mutex<VecDeque<Life>>> = Arc::default();
        let (requests, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let peer = {
            let (lives, requests, connections) = (lives.clone(), requests.clone(), connections.clone());
            raw_peer(move |tcp| {
                connections.fetch_add(1, Ordering::Relaxed);
                let life = lives.lock().expect("nobody panics with it held").pop_front();
                let requests = requests.clone();
                async move {
                    let life = life.expect("a connection that no call asked for");
                    live(tcp, life, &requests).await.expect("the sidecar reads and writes");
                }
            })
            .await
        };
        Self { peer, lives, requests, connections }
    }
}

async fn live(mut tcp: TcpStream, life: Life, requests: &AtomicUsize) -> io::Result<()> {
    tcp.write_all(&raw::settings()).await?;
    // Room for what each stream may send, so that none waits for another.
    tcp.write_all(&raw::frame(kind::WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes())).await?;
    let mut preface = [0; PREFACE.len()];
    tcp.read_exact(&mut preface).await?;
    let mut streams = Vec::new();
    let mut talking = 0;
    // Each caller has sent a message at least, so that the calls are in the middle of it.
    while streams.len() < STREAMS || talking < STREAMS {
        let (of, stream, flags) = read_frame(&mut tcp).await?;
        match of {
            kind::SETTINGS if flags & ACK == 0 => {
                tcp.write_all(&raw::frame(kind::SETTINGS, ACK, 0, &[])).await?;
            }
            kind::HEADERS => {
                requests.fetch_add(1, Ordering::Relaxed);
                streams.push((stream, false));
            }
            kind::DATA => {
                let talks = streams.iter_mut().find(|(of, _)| *of == stream).expect("HEADERS before DATA");
                talking += usize::from(!std::mem::replace(&mut talks.1, true));
            }
            _ => {}
        }
    }
    for (stream, _) in &streams {
        tcp.write_all(&answer(life.death.place, *stream)).await?;
    }
    if life.death.place == Place::InFrame {
        tcp.write_all(&half_a_frame(streams[0].0)).await?;
    }
    let _ = life.at_place.send(());
    let _ = life.dying.await;
    if life.death.reset {
        return socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    }
    tcp.shutdown().await?;
    // Closed with bytes unread, a socket sends RST and not FIN.
    while tcp.read(&mut [0; 16 << 10]).await? > 0 {}
    Ok(())
}

/// Of SETTINGS.
const ACK: u8 = 1;
/// Of HEADERS.
const END_HEADERS: u8 = 4;

/// Kind, stream and flags of the next frame.
async fn read_frame(tcp: &mut TcpStream) -> io::Result<(u8, u32, u8)> {
    let mut header = [0; 9];
    tcp.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    tcp.read_exact(&mut payload).await?;
    Ok((header[3], u32::from_be_bytes(header[5..].try_into().expect("four bytes")), header[4]))
}

/// All that the app says on one stream, but for a frame that is cut.
fn answer(place: Place, stream: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if place == Place::BeforeHead {
        return bytes;
    }
    // `:status: 200`, and `content-type` as a literal (RFC 7541, 6.1, 6.2.2 and appendix A).
    let mut head = vec![0x88, 0x0f, 0x10, b"application/grpc".len() as u8];
    head.extend_from_slice(b"application/grpc");
    bytes.extend_from_slice(&raw::frame(kind::HEADERS, END_HEADERS, stream, &head));
    if place == Place::AfterHead {
        return bytes;
    }
    for number in 0..LAST {
        bytes.extend_from_slice(&raw::frame(kind::DATA, 0, stream, &grpc::message(&payload(number))));
    }
    let message = grpc::message(&payload(LAST));
    match place {
        Place::BetweenMessages => bytes.extend_from_slice(&raw::frame(kind::DATA, 0, stream, &message)),
        Place::InMessage => {
            bytes.extend_from_slice(&raw::frame(kind::DATA, 0, stream, &message[..message.len() / 2]));
        }
        _ => {}
    }
    bytes
}

/// The frame of a last message, and of it one half.
fn half_a_frame(stream: u32) -> Bytes {
    let frame = raw::frame(kind::DATA, 0, stream, &grpc::message(&payload(LAST)));
    frame.slice(..frame.len() / 2)
}
