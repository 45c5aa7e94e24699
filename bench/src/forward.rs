//! The two floors that the proxy is held against: bytes forwarded by TCP, and calls forwarded by bare h2.
//!
//! Neither routes, balances, counts or checks anything. Both run on the calling thread's runtime.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::flow;
use crate::server::DATA_FRAME_BUDGET;

const TCP_BUFFER: usize = 64 << 10;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Copies bytes both ways for every connection to `listener`, until `accept` fails.
///
/// # Errors
/// What `accept` failed with.
pub async fn tcp(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    loop {
        let (mut down, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut up = TcpStream::connect(to).await?;
            down.set_nodelay(true)?;
            up.set_nodelay(true)?;
            tokio::io::copy_bidirectional_with_sizes(&mut down, &mut up, TCP_BUFFER, TCP_BUFFER).await
        });
    }
}

/// Forwards every call to one h2c connection per downstream connection, until `accept` fails.
///
/// # Errors
/// What `accept` failed with.
pub async fn h2(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    loop {
        let (down, _) = listener.accept().await?;
        tokio::spawn(connection(down, to));
    }
}

async fn connection(down: TcpStream, to: SocketAddr) -> io::Result<()> {
    down.set_nodelay(true)?;
    let up = TcpStream::connect(to).await?;
    up.set_nodelay(true)?;
    let (upstream, upstream_connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake::<_, Bytes>(up)
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(upstream_connection);
    let mut server = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake::<_, Bytes>(down)
        .await
        .map_err(io::Error::other)?;
    while let Some(call) = server.accept().await {
        let (request, respond) = call.map_err(io::Error::other)?;
        tokio::spawn(forward(request, respond, upstream.clone()));
    }
    Ok(())
}

async fn forward(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) {
    if let Err(fault) = call(request, &mut respond, upstream).await {
        respond.send_reset(fault.reason().unwrap_or(Reason::INTERNAL_ERROR));
    }
}

async fn call(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let mut upstream = upstream.ready().await?;
    let (response, to_server) = upstream.send_request(Request::from_parts(head, ()), body.is_end_stream())?;
    let requesting = async { if body.is_end_stream() { Ok(()) } else { copy(body, to_server).await } };
    let answering = async {
        let (head, body) = response.await?.into_parts();
        let end = body.is_end_stream();
        let to_client = respond.send_response(Response::from_parts(head, ()), end)?;
        if end { Ok(()) } else { copy(body, to_client).await }
    };
    tokio::try_join!(requesting, answering).map(|_| ())
}

async fn copy(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<(), h2::Error> {
    loop {
        let data = tokio::select! {
            biased;
            data = from.data() => data,
            reset = poll_fn(|cx| to.poll_reset(cx)) => return Err(reset?.into()),
        };
        let Some(data) = data.transpose()? else { break };
        let (length, end) = (data.len(), from.is_end_stream());
        flow::send_all(&mut to, data, end).await?;
        from.flow_control().release_capacity(length)?;
        if end {
            return Ok(());
        }
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
}
