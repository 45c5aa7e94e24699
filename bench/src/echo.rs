//! The methods of `bench.Echo`, and what a script does to them.

use std::future::{pending, poll_fn};
use std::str::FromStr;
use std::task::Context;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::sync::mpsc;

use crate::flow;
use crate::grpc::{self, Deframer};
use crate::record::{CallEnd, Guard, text};
use crate::script::{Action, Script};
use crate::tap;

/// What a call may ask of its connection.
pub(crate) enum Order {
    /// Send TCP RST.
    Disconnect,
    /// The same, once the peer has read what was sent so far: TCP RST may overtake it.
    DisconnectOnceRead,
    /// Say GOAWAY below this call, and keep it unanswered until the connection is gone.
    GoawayBelow(Held),
    /// Say GOAWAY above this call, and close the connection under it.
    GoawayAbove(Held),
}

/// A call that is held, because h2 resets one that is dropped.
pub(crate) type Held = Box<(Request<RecvStream>, SendResponse<Bytes>)>;

/// The server's side of one call.
pub(crate) struct Exchange {
    pub(crate) script: Script,
    pub(crate) server_name: HeaderValue,
    pub(crate) record: Guard,
    pub(crate) tap: tap::Handle,
    pub(crate) orders: mpsc::Sender<Order>,
    /// The message of an answer to `grpc.health.v1.Health/Check`; `None`: it is not served.
    pub(crate) health: Option<Bytes>,
}

/// The path of a health check.
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

impl Exchange {
    /// Serves the call to its end and records how it ended.
    pub(crate) async fn run(self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let end = match self.answer(request, respond).await {
            Ok(end) => end,
            Err(fault) => match fault.reason() {
                Some(reason) if fault.is_reset() => CallEnd::ResetByPeer(reason),
                _ => CallEnd::ConnectionLost,
            },
        };
        self.record.end(end);
    }

    async fn answer(
        &self,
        mut request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<CallEnd, h2::Error> {
        if let Some(delay) = self.script.delay {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                reset = poll_fn(|cx| respond.poll_reset(cx)) => return reset.map(CallEnd::ResetByPeer),
            }
        }
        let mut requests = Requests::of(request.body_mut(), &self.record);
        for _ in 0..self.script.after {
            requests.next().await?;
        }
        if self.script.reply.is_some() || self.script.pause.is_some() {
            return self.begin_and_end(request, respond).await;
        }
        match self.script.action {
            Some(Action::TrailersOnly(code)) => {
                let mut head = self.head();
                head.headers_mut().extend(self.status(code));
                respond.send_response(head, true)?;
            }
            Some(Action::Reset(reason)) => respond.send_reset(reason),
            Some(Action::Refused) => respond.send_reset(Reason::REFUSED_STREAM),
            Some(Action::Disconnect) => self.order(Order::Disconnect).await,
            Some(Action::GoawayBelow) => self.order(Order::GoawayBelow(Box::new((request, respond)))).await,
            Some(Action::GoawayAbove) => self.order(Order::GoawayAbove(Box::new((request, respond)))).await,
            Some(Action::Hang) => {
                while requests.next().await?.is_some() {}
                return poll_fn(|cx| respond.poll_reset(cx)).await.map(CallEnd::ResetByPeer);
            }
            Some(Action::StatusNoMessage(code)) => {
                let mut stream = respond.send_response(self.head(), false)?;
                stream.send_trailers(self.status(code))?;
            }
            Some(Action::Status(_) | Action::ResetAfter(..) | Action::DisconnectAfter(_)) | None => {
                return self.method(request, respond).await;
            }
        }
        Ok(CallEnd::Scripted)
    }

    /// Headers and messages of the script's own, and then its action.
    async fn begin_and_end(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<CallEnd, h2::Error> {
        let id = respond.stream_id().as_u32();
        let mut stream = None;
        if let Some(messages) = self.script.reply {
            self.tap.watch(id);
            let stream = stream.insert(respond.send_response(self.head(), false)?);
            let mut bytes = 0;
            for _ in 0..messages {
                let message = grpc::message(b"scripted");
                bytes += message.len() as u64;
                flow::send_all(stream, message, false).await?;
            }
            self.tap.written(id, bytes).await;
        }
        // It is the stream that knows of a reset once there is one.
        let mut reset = |cx: &mut Context<'_>| match &mut stream {
            Some(stream) => stream.poll_reset(cx),
            None => respond.poll_reset(cx),
        };
        let paused = tokio::time::sleep(self.script.pause.unwrap_or_default());
        tokio::select! {
            () = paused => {}
            reset = poll_fn(&mut reset) => return reset.map(CallEnd::ResetByPeer),
        }
        if self.script.action == Some(Action::Hang) {
            return poll_fn(reset).await.map(CallEnd::ResetByPeer);
        }
        match (self.script.action, stream) {
            (Some(Action::TrailersOnly(code) | Action::StatusNoMessage(code)), Some(mut stream)) => {
                stream.send_trailers(self.status(code))?;
            }
            (Some(Action::TrailersOnly(code) | Action::StatusNoMessage(code)), None) => {
                let mut head = self.head();
                head.headers_mut().extend(self.status(code));
                respond.send_response(head, true)?;
            }
            (Some(Action::Reset(reason)), _) => respond.send_reset(reason),
            (Some(Action::Disconnect), _stream) => self.disconnect_once_read().await,
            (Some(Action::GoawayAbove), _) => {
                self.order(Order::GoawayAbove(Box::new((request, respond)))).await;
            }
            (action, _) => panic!("{action:?} has nothing to begin with"),
        }
        Ok(CallEnd::Scripted)
    }

    async fn method(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<CallEnd, h2::Error> {
        let (head, mut body) = request.into_parts();
        let mut requests = Requests::of(&mut body, &self.record);
        let path = head.uri.path();
        if let (HEALTH, Some(message)) = (path, &self.health) {
            while requests.next().await?.is_some() {}
            let mut stream = respond.send_response(self.head(), false)?;
            flow::send_all(&mut stream, grpc::message(message), false).await?;
            stream.send_trailers(self.status(0))?;
            return Ok(CallEnd::Clean);
        }
        if !matches!(
            path.strip_prefix("/bench.Echo/"),
            Some("Unary" | "Bidi" | "ServerStream" | "ClientStream")
        ) {
            let mut head = self.head();
            head.headers_mut().extend(self.status(12));
            respond.send_response(head, true)?;
            return Ok(CallEnd::Clean);
        }
        if matches!(self.script.action, Some(Action::ResetAfter(..) | Action::DisconnectAfter(_))) {
            self.tap.watch(respond.stream_id().as_u32());
        }
        let stream = respond.send_response(self.head(), false)?;
        let mut replies = Replies { stream, messages: 0, bytes: 0, exchange: self };
        if replies.cut().await {
            return Ok(CallEnd::Scripted);
        }
        match path {
            "/bench.Echo/Unary" | "/bench.Echo/Bidi" => {
                while let Some(message) = requests.next().await? {
                    if replies.send(&message).await? {
                        return Ok(CallEnd::Scripted);
                    }
                }
            }
            "/bench.Echo/ServerStream" => {
                let payload = vec![b's'; header(&head.headers, "x-size").unwrap_or(0)];
                requests.next().await?;
                for _ in 0..header(&head.headers, "x-count").unwrap_or(1_u64) {
                    if replies.send(&payload).await? {
                        return Ok(CallEnd::Scripted);
                    }
                }
            }
            _ => {
                let (mut messages, mut bytes) = (0_u64, 0_usize);
                while let Some(message) = requests.next().await? {
                    messages += 1;
                    bytes += message.len();
                }
                if replies.send(format!("{messages} {bytes}").as_bytes()).await? {
                    return Ok(CallEnd::Scripted);
                }
            }
        }
        let code = if let Some(Action::Status(code)) = self.script.action { code } else { 0 };
        replies.stream.send_trailers(self.status(code))?;
        Ok(CallEnd::Clean)
    }

    /// The connection takes orders as long as it lives; if it is gone, so is the need for them.
    async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }

    /// Ends with its connection: whoever waits here still holds the call, which h2 would reset if it were dropped.
    async fn disconnect_once_read(&self) {
        self.record.end(CallEnd::Scripted);
        self.order(Order::DisconnectOnceRead).await;
        pending().await
    }

    fn status(&self, code: i32) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(3);
        trailers.insert("grpc-status", HeaderValue::from(code));
        if code != 0 {
            trailers.insert("grpc-message", HeaderValue::from_static("as the script says"));
        }
        if let Some(pushback) = &self.script.pushback {
            let value = HeaderValue::from_str(pushback).expect("ASCII in a script");
            trailers.insert("grpc-retry-pushback-ms", value);
        }
        trailers
    }

    fn head(&self) -> Response<()> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::OK;
        head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        head.headers_mut().insert("x-server", self.server_name.clone());
        head
    }
}

/// The messages that come in.
struct Requests<'e> {
    body: &'e mut RecvStream,
    deframer: Deframer,
    record: &'e Guard,
}

impl<'e> Requests<'e> {
    fn of(body: &'e mut RecvStream, record: &'e Guard) -> Self {
        Self { body, deframer: Deframer::default(), record }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if let Some(message) = self.deframer.next_message() {
                self.record.message(&message);
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else { return Ok(None) };
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            self.deframer.push(&data);
        }
    }
}

/// The messages that go out, up to where the script cuts them.
struct Replies<'e> {
    stream: SendStream<Bytes>,
    messages: u64,
    bytes: u64,
    exchange: &'e Exchange,
}

impl Replies<'_> {
    /// Sends one message; `true`: the script has ended the call.
    async fn send(&mut self, payload: &[u8]) -> Result<bool, h2::Error> {
        flow::send_all(&mut self.stream, grpc::message(payload), false).await?;
        self.messages += 1;
        self.bytes += (grpc::PREFIX + payload.len()) as u64;
        Ok(self.cut().await)
    }

    /// Ends the call if the script says so at this point.
    async fn cut(&mut self) -> bool {
        if !self.is_cut_here() {
            return false;
        }
        self.exchange.tap.written(self.stream.stream_id().as_u32(), self.bytes).await;
        match self.exchange.script.action {
            Some(Action::ResetAfter(_, reason)) => self.stream.send_reset(reason),
            _ => self.exchange.disconnect_once_read().await,
        }
        true
    }

    fn is_cut_here(&self) -> bool {
        match self.exchange.script.action {
            Some(Action::ResetAfter(after, _) | Action::DisconnectAfter(after)) => self.messages == after,
            _ => false,
        }
    }
}

fn header<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    text(headers, name)?.parse().ok()
}
