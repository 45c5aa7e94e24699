//! Frames that come late, for streams that were reset long ago: whatever was forgotten meanwhile, they end
//! no connection and take none of its window.
//!
//! h2 remembers a stream it has reset for a while and up to a number, and lets a connection meet only so
//! many frames of those it has forgotten (`max_local_error_reset_streams`, 1024 by default, for ever). A
//! sidecar cancels what its callers cancel, so it would get there with nobody at fault.

mod pair;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bench::call::CallSpec;
use bench::client::Client;
use bench::raw::{self, kind};
use bench::wait::{soon, until, within};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::pair::{ECHO, Pair, SERVER_STREAM, UNARY, around, metric, peer, well};

/// More than any of h2's own limits on streams that were reset.
const CANCELLED: usize = 1_500;
/// Longer than the sidecar, or h2 by default, remembers a stream that it has reset.
const FORGOTTEN: Duration = Duration::from_secs(6);
/// What comes late on each stream; in all far more than the window of a connection.
const LATE: usize = 8_000;
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn answers_that_come_long_after_their_cancel_end_no_connection_and_take_no_window() {
    let (resets, mut reset) = mpsc::channel(CANCELLED);
    let (go, gone) = watch::channel(false);
    let app = peer::raw(move |tcp| LateApp::serve(tcp, resets.clone(), gone.clone())).await;
    let (_site, callee, caller) = around(app.addr, "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let unary = || client.unary(ECHO, UNARY, b"x");
    well(soon("a call", unary()).await);

    for _ in 0..CANCELLED {
        let mut call = client.call(CallSpec::new(ECHO, SERVER_STREAM)).await.expect("a call");
        assert!(soon("the head", call.headers()).await.is_some());
        call.cancel();
    }
    for number in 0..CANCELLED {
        soon(format_args!("reset {number} at the app"), reset.recv()).await.expect("the app is there");
    }
    // Not a wait for something: this much time is what it is about.
    sleep(FORGOTTEN).await;
    go.send_replace(true);
    // The app answers this after all that is late, so it comes when that has been taken in.
    let outcome = within(PATIENCE, "a call behind what is late", unary()).await.expect("a call");
    assert!(outcome.is_ok(), "{outcome:?}");
    for sidecar in [&caller, &callee] {
        until("the calls' end", async || metric(sidecar, "outrigger_calls_in_flight", &[]).await == 0).await;
        let upstream = [("direction", "upstream")];
        assert_eq!(metric(sidecar, "outrigger_connections_total", &upstream).await, 1);
    }
}

#[tokio::test]
async fn requests_that_go_on_long_after_their_answer_end_no_connection_and_take_no_window() {
    let pair = Pair::start().await;
    pair.app.script_always(Some("trailers-only:8"));
    let mut caller = LateCaller::connect(pair.caller.outbound()).await;
    let streams: Vec<u32> = (0..CANCELLED as u32).map(|number| 2 * number + 1).collect();
    for few in streams.chunks(100) {
        for stream in few {
            caller.send(kind::HEADERS, END_HEADERS, *stream, REQUEST).await;
        }
        // Answered, and told that the rest of the request is not wanted.
        for _ in few {
            soon("the reset", caller.until(kind::RST_STREAM, 0)).await;
        }
    }
    // Not a wait for something: this much time is what it is about.
    sleep(FORGOTTEN).await;
    let uploading = async {
        for stream in &streams {
            caller.upload(*stream).await;
        }
    };
    within(PATIENCE, "a window for all that is late", uploading).await;
    let last = 2 * CANCELLED as u32 + 1;
    caller.send(kind::HEADERS, END_HEADERS | END_STREAM, last, REQUEST).await;
    let answer = soon("a call behind what is late", caller.until(kind::HEADERS, END_STREAM)).await;
    assert_eq!(answer.stream, last);
    until("the calls' end", async || metric(&pair.caller, "outrigger_calls_in_flight", &[]).await == 0).await;
    let outbound = [("direction", "outbound")];
    assert_eq!(metric(&pair.caller, "outrigger_connections_total", &outbound).await, 1);
}

/// A caller that sends what it wants, as far as the window of the connection goes.
struct LateCaller {
    tcp: TcpStream,
    input: BytesMut,
    window: usize,
}

impl LateCaller {
    async fn connect(addr: SocketAddr) -> Self {
        let mut tcp = TcpStream::connect(addr).await.expect("a connection");
        tcp.write_all(raw::PREFACE).await.expect("written");
        tcp.write_all(&raw::settings()).await.expect("written");
        Self { tcp, input: BytesMut::new(), window: 65_535 }
    }

    async fn upload(&mut self, stream: u32) {
        while self.window < LATE {
            self.until(kind::WINDOW_UPDATE, 0).await;
        }
        self.window -= LATE;
        self.send(kind::DATA, 0, stream, &[0; LATE]).await;
    }

    /// The next frame of this kind that has these flags.
    async fn until(&mut self, kind: u8, flags: u8) -> Frame {
        loop {
            while let Some(frame) = Frame::take(&mut self.input) {
                assert_ne!(frame.kind, kind::GOAWAY, "{frame:?}");
                if frame.kind == kind::SETTINGS && frame.flags & ACK == 0 {
                    self.send(kind::SETTINGS, ACK, 0, &[]).await;
                }
                self.window += frame.credit();
                if frame.kind == kind && frame.flags & flags == flags {
                    return frame;
                }
            }
            let read = self.tcp.read_buf(&mut self.input).await;
            assert!(read.as_ref().is_ok_and(|count| *count > 0), "the sidecar has closed: {read:?}");
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.tcp.write_all(&raw::frame(kind, flags, stream, payload)).await.expect("the sidecar is there");
    }
}

/// An app that answers a request once it has ended, with the head alone while it has not; and that, when it
/// is told to, sends DATA on every stream that was reset, as far as the window of the connection goes.
struct LateApp {
    tcp: TcpStream,
    resets: mpsc::Sender<()>,
    gone: watch::Receiver<bool>,
    window: usize,
    late: VecDeque<u32>,
    /// Requests that have ended, and are answered when nothing late is left.
    ended: VecDeque<u32>,
}

impl LateApp {
    async fn serve(tcp: TcpStream, resets: mpsc::Sender<()>, gone: watch::Receiver<bool>) {
        let (late, ended) = Default::default();
        let mut app = Self { tcp, resets, gone, window: 65_535, late, ended };
        app.tcp.write_all(&raw::settings()).await.expect("written");
        let mut preface = [0; raw::PREFACE.len()];
        app.tcp.read_exact(&mut preface).await.expect("a preface");
        let mut input = BytesMut::new();
        loop {
            tokio::select! {
                read = app.tcp.read_buf(&mut input) => match read {
                    Ok(1..) => while let Some(frame) = Frame::take(&mut input) { app.take_in(frame).await },
                    _ => return,
                },
                _ = app.gone.changed(), if !*app.gone.borrow() => {}
            }
            app.send_late().await;
        }
    }

    async fn take_in(&mut self, frame: Frame) {
        match frame.kind {
            kind::SETTINGS if frame.flags & ACK == 0 => self.send(kind::SETTINGS, ACK, 0, &[]).await,
            kind::WINDOW_UPDATE if frame.stream == 0 => {
                self.window += (&frame.payload[..]).get_u32() as usize
            }
            // What is late is answered by RST_STREAM too: those do not count.
            kind::RST_STREAM if !*self.gone.borrow() => {
                self.late.push_back(frame.stream);
                self.resets.send(()).await.expect("the test counts them");
            }
            kind::HEADERS => self.send(kind::HEADERS, END_HEADERS, frame.stream, HEAD).await,
            kind::DATA if frame.flags & END_STREAM != 0 => self.ended.push_back(frame.stream),
            _ => {}
        }
    }

    async fn send_late(&mut self) {
        if *self.gone.borrow() {
            while self.window >= LATE
                && let Some(stream) = self.late.pop_front()
            {
                self.window -= LATE;
                self.send(kind::DATA, 0, stream, &[0; LATE]).await;
            }
        }
        while (!*self.gone.borrow() || self.late.is_empty())
            && let Some(stream) = self.ended.pop_front()
        {
            self.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, OK).await;
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.tcp.write_all(&raw::frame(kind, flags, stream, payload)).await.expect("the sidecar is there");
    }
}

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, `content-type: application/grpc` (RFC 7541, appendix A and section 6.2.2).
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`.
const OK: &[u8] = b"\x00\x0bgrpc-status\x010";

/// `:method: POST`, `:scheme: http`, `:path`, `:authority`, `content-type` and `te`.
const REQUEST: &[u8] =
    b"\x83\x86\x04\x0b/bench.Echo\x01\x09echo.shop\x0f\x10\x10application/grpc\x00\x02te\x08trailers";

/// A frame as it came (RFC 9113, section 4.1).
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: BytesMut,
}

impl Frame {
    /// What it adds to the window of the connection.
    fn credit(&self) -> usize {
        match (self.kind, self.stream) {
            (kind::WINDOW_UPDATE, 0) => (&self.payload[..]).get_u32() as usize,
            _ => 0,
        }
    }

    fn take(input: &mut BytesMut) -> Option<Self> {
        let mut head = input.get(..9)?;
        let length = head.get_uint(3) as usize;
        let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32());
        if input.len() < 9 + length {
            return None;
        }
        input.advance(9);
        Some(Self { kind, flags, stream, payload: input.split_to(length) })
    }
}
