//! A gRPC client on `h2` that shows what came over the wire, and can misbehave.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri, Version, response};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::flow;
use crate::grpc::{self, Deframer};
use crate::server::DATA_FRAME_BUDGET;
use crate::tls::{TlsIdentity, client_config};

/// How a connection is made.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Speaks TLS; `None`: plain h2c.
    pub tls: Option<TlsIdentity>,
    /// Receive window of a stream, in bytes; default 1 MiB.
    pub stream_window: u32,
    /// Receive window of the connection, in bytes; default 16 MiB.
    pub connection_window: u32,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { tls: None, stream_window: 1 << 20, connection_window: 16 << 20 }
    }
}

/// One HTTP/2 connection. Clones share it; it closes when the last clone and the last call are gone.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    ended: watch::Receiver<Option<String>>,
    task: Arc<AbortHandle>,
    scheme: &'static str,
}

/// What a call begins with.
#[derive(Clone, Debug)]
pub struct CallSpec<'s> {
    /// `:authority`.
    pub authority: &'s str,
    /// `:path`, with its leading slash.
    pub path: &'s str,
    /// Added to `content-type: application/grpc` and `te: trailers`; one of those names replaces it.
    pub headers: Vec<(&'s str, &'s str)>,
    /// Whether the HEADERS frame ends the request already.
    pub end_stream: bool,
    /// Whether what [`Call::recv`] returns keeps its share of the window, until [`CallReceiver::release`]:
    /// the paused reader. (One that never calls `recv` is paused as well.)
    pub hold_window: bool,
}

impl<'s> CallSpec<'s> {
    /// A plain gRPC call.
    pub fn new(authority: &'s str, path: &'s str) -> Self {
        Self { authority, path, headers: Vec::new(), end_stream: false, hold_window: false }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'s str, value: &'s str) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl Client {
    /// Connects with default windows.
    ///
    /// # Errors
    /// TCP, TLS or the HTTP/2 preface, each with the address.
    pub async fn connect(addr: SocketAddr, tls: Option<TlsIdentity>) -> io::Result<Self> {
        Self::connect_with(addr, ClientOptions { tls, ..ClientOptions::default() }).await
    }

    /// Connects as `options` say.
    ///
    /// # Errors
    /// TCP, TLS or the HTTP/2 preface, each with the address.
    pub async fn connect_with(addr: SocketAddr, options: ClientOptions) -> io::Result<Self> {
        let at =
            |what: &str, fault: &dyn std::fmt::Display| io::Error::other(format!("{what} {addr}: {fault}"));
        let tcp = TcpStream::connect(addr).await.map_err(|fault| at("cannot connect to", &fault))?;
        tcp.set_nodelay(true)?;
        let Some(identity) = &options.tls else { return Self::over(tcp, &options).await };
        let connector = TlsConnector::from(client_config(identity)?);
        let name = ServerName::IpAddress(addr.ip().into());
        let tls = connector.connect(name, tcp).await.map_err(|fault| at("TLS handshake with", &fault))?;
        Self::over(tls, &options).await
    }

    /// Speaks HTTP/2 over a stream that is there already, such as a CONNECT tunnel. `options.tls` only
    /// chooses the `:scheme`.
    ///
    /// # Errors
    /// When the preface cannot be written.
    pub async fn over<T>(io: T, options: &ClientOptions) -> io::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .enable_push(false)
            .max_local_error_reset_streams(None)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        let (ending, ended) = watch::channel(None);
        let task = tokio::spawn(async move {
            let end = match connection.await {
                Ok(()) => "closed".to_owned(),
                Err(fault) => fault.to_string(),
            };
            let _ = ending.send(Some(end));
        });
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        Ok(Self { send, ended, task: Arc::new(task.abort_handle()), scheme })
    }

    /// Begins a call, once the peer's MAX_CONCURRENT_STREAMS lets it.
    ///
    /// # Errors
    /// When the connection takes no more calls. What happens to the call later is in its [`Outcome`].
    ///
    /// # Panics
    /// When authority, path or a header is not well-formed.
    pub async fn call(&self, spec: CallSpec<'_>) -> Result<Call, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, stream) = send.send_request(self.request(&spec), spec.end_stream)?;
        Ok(Call {
            sender: CallSender { stream, ended: spec.end_stream },
            receiver: CallReceiver {
                response: Some(response),
                head: None,
                body: None,
                deframer: Deframer::default(),
                hold_window: spec.hold_window,
                held: 0,
                outcome: Outcome::default(),
            },
        })
    }

    /// One message there, and whatever comes back.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn unary(&self, authority: &str, path: &str, payload: &[u8]) -> Result<Outcome, h2::Error> {
        self.unary_with(CallSpec::new(authority, path), payload).await
    }

    /// [`Client::unary`] with headers.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn unary_with(&self, spec: CallSpec<'_>, payload: &[u8]) -> Result<Outcome, h2::Error> {
        let mut call = self.call(spec).await?;
        // A server may answer and reset before it has read the message; the outcome says so.
        let _ = call.sender.send_ending(payload).await;
        Ok(call.finish().await)
    }

    /// Why the connection ended, as soon as it has; `closed` after a clean end.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "aborted".to_owned(),
        }
    }

    /// Whether the connection still is there.
    pub fn is_open(&self) -> bool {
        self.ended.borrow().is_none() && !self.task.is_finished()
    }

    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS as known by now.
    pub fn max_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Drops the socket, whatever is open on it.
    pub fn abort(&self) {
        self.task.abort();
    }

    fn request(&self, spec: &CallSpec<'_>) -> Request<()> {
        let path = PathAndQuery::try_from(spec.path).expect("a well-formed path");
        let uri = Uri::builder().scheme(self.scheme).authority(spec.authority).path_and_query(path);
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .method(Method::POST)
            .uri(uri.build().expect("a well-formed authority"));
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            if !spec.headers.iter().any(|(given, _)| given == &name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in &spec.headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("well-formed headers")
    }
}

/// One call. Dropped before its end, it is cancelled.
pub struct Call {
    /// The request.
    pub sender: CallSender,
    /// The response.
    pub receiver: CallReceiver,
}

impl Call {
    /// Sends one message. See [`CallSender::send`].
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), h2::Error> {
        self.sender.send(payload).await
    }

    /// Ends the request with an empty DATA frame that carries END_STREAM.
    pub fn half_close(&mut self) {
        self.sender.half_close();
    }

    /// The next message. See [`CallReceiver::recv`].
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }

    /// The response headers; `None`: the call ended without.
    pub async fn headers(&mut self) -> Option<&HeaderMap> {
        self.receiver.headers().await
    }

    /// RST_STREAM(CANCEL).
    pub fn cancel(&mut self) {
        self.sender.reset(Reason::CANCEL);
    }

    /// Half-closes if that is still to do, reads to the end, and tells how it ended.
    pub async fn finish(mut self) -> Outcome {
        self.sender.half_close();
        self.receiver.finish().await
    }

    /// For a task each. The stream is cancelled when both are dropped.
    pub fn split(self) -> (CallSender, CallReceiver) {
        (self.sender, self.receiver)
    }
}

/// The request half of a call.
pub struct CallSender {
    stream: SendStream<Bytes>,
    ended: bool,
}

impl CallSender {
    /// Sends one message, as fast as the peer's windows grant it.
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), h2::Error> {
        flow::send_all(&mut self.stream, grpc::message(payload), false).await
    }

    /// Sends the last message, END_STREAM on its last frame.
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn send_ending(&mut self, payload: &[u8]) -> Result<(), h2::Error> {
        self.ended = true;
        flow::send_all(&mut self.stream, grpc::message(payload), true).await
    }

    /// Sends bytes as they are, without a prefix: for half messages and garbage.
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), h2::Error> {
        flow::send_all(&mut self.stream, Bytes::copy_from_slice(bytes), false).await
    }

    /// How many bytes can be sent now without waiting, after asking for `wanted`; 0 or less than that means
    /// that the peer pushes back.
    pub fn granted(&mut self, wanted: usize) -> usize {
        self.stream.reserve_capacity(wanted);
        self.stream.capacity()
    }

    /// Ends the request; twice is once.
    pub fn half_close(&mut self) {
        if !self.ended {
            self.ended = true;
            // It fails only if the stream has ended already, which the receiver sees.
            let _ = self.stream.send_data(Bytes::new(), true);
        }
    }

    /// RST_STREAM with this reason.
    pub fn reset(&mut self, reason: Reason) {
        self.ended = true;
        self.stream.send_reset(reason);
    }

    /// Waits for the peer's RST_STREAM, without reading anything.
    pub async fn reset_by_peer(&mut self) -> Option<Reason> {
        poll_fn(|cx| self.stream.poll_reset(cx)).await.ok()
    }
}

/// The response half of a call.
pub struct CallReceiver {
    response: Option<ResponseFuture>,
    head: Option<response::Parts>,
    body: Option<RecvStream>,
    deframer: Deframer,
    hold_window: bool,
    held: usize,
    outcome: Outcome,
}

impl CallReceiver {
    /// The next whole message; `None`: there is none to come, [`CallReceiver::finish`] tells why.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.headers().await?;
        loop {
            if let Some(message) = self.deframer.next_message() {
                self.outcome.messages += 1;
                self.outcome.bytes += message.len() as u64;
                return Some(message);
            }
            match self.body.as_mut()?.data().await {
                Some(Ok(data)) => {
                    self.held += data.len();
                    if !self.hold_window {
                        self.release();
                    }
                    self.deframer.push(&data);
                }
                Some(Err(fault)) => {
                    self.fail(&fault);
                    return None;
                }
                None => {
                    self.trailers().await;
                    return None;
                }
            }
        }
    }

    /// Gives the window of what was read so far back to the peer.
    pub fn release(&mut self) {
        if let Some(body) = &mut self.body {
            // It fails only if the stream has ended.
            let _ = body.flow_control().release_capacity(self.held);
            self.held = 0;
        }
    }

    /// The response headers; `None`: the call ended without.
    pub async fn headers(&mut self) -> Option<&HeaderMap> {
        if let Some(response) = self.response.as_mut() {
            // Kept in place until it is done, so that a caller may give up waiting and come back.
            let answer = Pin::new(response).await;
            self.response = None;
            match answer {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    self.outcome.http_status = Some(head.status.as_u16());
                    self.outcome.headers = head.headers.clone();
                    self.head = Some(head);
                    self.body = Some(body);
                }
                Err(fault) => self.fail(&fault),
            }
        }
        self.head.as_ref().map(|head| &head.headers)
    }

    /// Reads to the end, dropping the messages but the last, and tells how it ended.
    pub async fn finish(mut self) -> Outcome {
        self.hold_window = false;
        self.release();
        while let Some(message) = self.recv().await {
            self.outcome.last = Some(message);
        }
        self.outcome.cut_in_message = self.deframer.in_mid_message();
        self.outcome.read_status();
        self.outcome
    }

    async fn trailers(&mut self) {
        let Some(body) = &mut self.body else { return };
        match body.trailers().await {
            Ok(trailers) => {
                self.outcome.clean_end = true;
                self.outcome.trailers = trailers;
            }
            Err(fault) => self.fail(&fault),
        }
        self.body = None;
    }

    fn fail(&mut self, fault: &h2::Error) {
        if fault.is_reset() {
            self.outcome.reset = fault.reason();
        }
        self.outcome.goaway = fault.is_go_away() && fault.is_remote();
        self.outcome.fault = Some(fault.to_string());
        self.body = None;
    }
}

/// How a call ended, as the client saw it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// `:status`; `None`: no response headers came.
    pub http_status: Option<u16>,
    /// `grpc-status`, from the trailers or else from the headers (trailers-only).
    pub grpc_status: Option<i32>,
    /// `grpc-message` from the same place, percent-decoded.
    pub message: String,
    /// The response headers.
    pub headers: HeaderMap,
    /// The trailers; `None`: none came, as in a trailers-only answer.
    pub trailers: Option<HeaderMap>,
    /// The reason of an RST_STREAM that ended it.
    pub reset: Option<Reason>,
    /// Whether a GOAWAY below this call ended it: the peer has not looked at it.
    pub goaway: bool,
    /// What ended it, if not END_STREAM: reset, GOAWAY, a broken connection.
    pub fault: Option<String>,
    /// Whether END_STREAM came.
    pub clean_end: bool,
    /// Whether it ended inside a message.
    pub cut_in_message: bool,
    /// Whole messages received, those read before `finish` included.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The last message that `finish` itself read.
    pub last: Option<Bytes>,
}

impl Outcome {
    /// Whether the call went well: `grpc-status: 0` and a clean end.
    pub fn is_ok(&self) -> bool {
        self.grpc_status == Some(0) && self.clean_end && !self.cut_in_message
    }

    /// A trailer, or else a response header, as text.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        let trailers = self.trailers.as_ref().unwrap_or(&self.headers);
        trailers.get(name)?.to_str().ok()
    }

    fn read_status(&mut self) {
        self.grpc_status = self.trailer("grpc-status").and_then(|status| status.parse().ok());
        self.message = percent_decoded(self.trailer("grpc-message").unwrap_or_default());
    }
}

/// As gRPC over HTTP/2 has it for `grpc-message`: what is not a valid escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}
