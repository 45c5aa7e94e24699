//! A gRPC server of which a test says what each call gets, over any connection.
//!
//! Written on `h2` directly, so that it shares no fault with the clients it tests.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::grpc::{Deframer, message};

/// One call, and who makes it.
pub struct Exchange {
    /// `:path`.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// What the client showed in TLS.
    pub certificate: Option<CertificateDer<'static>>,
    body: RecvStream,
    held: Deframer,
    respond: Option<SendResponse<Bytes>>,
    sending: Option<SendStream<Bytes>>,
}

impl Exchange {
    /// The token of `authorization: Bearer`.
    pub fn token(&self) -> Option<String> {
        let value = self.headers.get("authorization")?.to_str().ok()?;
        value.strip_prefix("Bearer ").map(str::to_owned)
    }

    /// The next message; `None`: the client sends no more.
    pub async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = self.held.next_message() {
                return M::decode(message).ok();
            }
            let data = self.body.data().await?.ok()?;
            let _ = self.body.flow_control().release_capacity(data.len());
            self.held.push(&data);
        }
    }

    /// Sends a message. A client that has gone is no fault.
    pub fn send(&mut self, answer: &impl Message) {
        if let Some(sending) = self.begin() {
            let _ = sending.send_data(message(&answer.encode_to_vec()), false);
        }
    }

    /// Ends the call by a status.
    pub fn end(mut self, code: u16, words: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.into());
        if let Ok(words) = HeaderValue::from_str(words) {
            trailers.insert("grpc-message", words);
        }
        if let Some(sending) = self.begin() {
            let _ = sending.send_trailers(trailers);
        }
    }

    fn begin(&mut self) -> Option<&mut SendStream<Bytes>> {
        if let Some(mut respond) = self.respond.take() {
            let mut head = Response::new(());
            head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            self.sending = respond.send_response(head, false).ok();
        }
        self.sending.as_mut()
    }
}

/// Serves one connection until its end; each call is a task of its own.
///
/// # Errors
/// As HTTP/2.
pub async fn serve<I, F, Fut>(
    io: I,
    certificate: Option<CertificateDer<'static>>,
    handler: Arc<F>,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Exchange) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connection = h2::server::handshake(io).await.map_err(io::Error::other)?;
    let mut calls = JoinSet::new();
    while let Some(call) = connection.accept().await {
        let (request, respond) = call.map_err(io::Error::other)?;
        let (head, body) = request.into_parts();
        calls.spawn(handler(Exchange {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            certificate: certificate.clone(),
            body,
            held: Deframer::default(),
            respond: Some(respond),
            sending: None,
        }));
    }
    Ok(())
}
