//! Peers that answer as the test writes it: an h2 server whose handler is a closure, and a listener whose
//! every byte is the test's own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bench::flow;
use bench::server::DATA_FRAME_BUDGET;
use bench::tls::{ServerTls, server_config};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::pair::ANY;

/// Far more than a stream's window, so that a call nobody reads does not hold up the others.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A listener and what it accepted; all of it ends when this is dropped.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    task: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hands every connection to `serve`.
pub(crate) async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Peer
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(ANY).await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = tcp.set_nodelay(true);
            connections.spawn(serve(tcp));
        }
    });
    Peer { addr, task: task.abort_handle() }
}

/// Speaks HTTP/2, by TLS if told so, and hands every call to `answer`.
pub(crate) async fn app<F>(
    tls: Option<&ServerTls>,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
) -> Peer
where
    F: Future<Output = ()> + Send + 'static,
{
    let tls = tls.map(|tls| TlsAcceptor::from(server_config(tls).expect("a leaf and its key")));
    let tls = Arc::new(tls);
    raw(move |tcp| {
        let (tls, answer) = (tls.clone(), answer.clone());
        async move {
            match &*tls {
                None => converse(tcp, answer).await,
                Some(tls) => {
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    converse(stream, answer).await;
                }
            }
        }
    })
    .await
}

async fn converse<T, F>(io: T, answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F)
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()> + Send + 'static,
{
    let handshake = h2::server::Builder::new()
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_local_error_reset_streams(None)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake(io)
        .await;
    let Ok(mut h2) = handshake else { return };
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    calls.spawn(answer(request, respond));
                }
                _ => return,
            },
            Some(_) = calls.join_next() => {}
        }
    }
}

/// Sends every byte back as it comes, and then OK.
pub(crate) async fn echo(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let Ok(mut stream) = respond.send_response(head(&[]), false) else { return };
    while let Some(Ok(data)) = request.body_mut().data().await {
        let _ = request.body_mut().flow_control().release_capacity(data.len());
        if flow::send_all(&mut stream, data, false).await.is_err() {
            return;
        }
    }
    let _ = stream.send_trailers(headers(&[("grpc-status", "0")]));
}

/// The head of a gRPC response, with these fields too.
pub(crate) fn head(fields: &[(&'static str, &str)]) -> Response<()> {
    let mut head = Response::new(());
    *head.headers_mut() = headers(fields);
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    head
}

/// A header list, in order, names repeated as given.
pub(crate) fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().expect("a header value"));
    }
    headers
}

/// Reads a request to its end.
pub(crate) async fn drain(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    all
}
