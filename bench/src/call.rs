//! One gRPC call of the test client, message by message.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, response};

use crate::flow;
use crate::grpc::{self, Deframer};
use crate::outcome::Outcome;

/// What a call begins with.
#[derive(Clone, Debug)]
pub struct CallSpec<'s> {
    /// `:authority`; empty: none is sent.
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

/// One call. Dropped before its end, it is cancelled.
pub struct Call {
    /// The request.
    pub sender: CallSender,
    /// The response.
    pub receiver: CallReceiver,
}

impl Call {
    pub(crate) fn new(stream: SendStream<Bytes>, response: ResponseFuture, spec: &CallSpec<'_>) -> Self {
        let receiver = CallReceiver {
            response: Some(response),
            head: None,
            body: None,
            deframer: Deframer::default(),
            hold_window: spec.hold_window,
            held: 0,
            outcome: Outcome::default(),
        };
        Self { sender: CallSender { stream, ended: spec.end_stream }, receiver }
    }

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
