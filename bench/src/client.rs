//! A gRPC client on `h2` that shows what came over the wire, and can misbehave.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::call::{Call, CallSpec};
use crate::outcome::Outcome;
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
        Ok(Call::new(stream, response, &spec))
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
        // Without an authority, h2 takes the request only as one that comes from HTTP/1.1.
        let (uri, version) = match spec.authority {
            "" => (Uri::from(path), Version::HTTP_11),
            authority => {
                let uri = Uri::builder().scheme(self.scheme).authority(authority).path_and_query(path);
                (uri.build().expect("a well-formed authority"), Version::HTTP_2)
            }
        };
        let mut request = Request::builder().version(version).method(Method::POST).uri(uri);
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
