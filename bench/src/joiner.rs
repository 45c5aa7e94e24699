//! A client of a control plane's CA, and of what else is served on that port: h2 over TLS and messages written by hand, so that
//! nothing of ours judges itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use prost::Message;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::certs::Leaf;
use crate::grpc::{CODES, Deframer, message};
use crate::wait::{soon, until};

/// The path of `CreateCertificate`.
pub const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// A request for a certificate, and its key.
#[derive(Debug)]
pub struct Csr {
    /// PKCS#10, PEM.
    pub pem: String,
    /// PKCS#8, PEM.
    pub key_pem: String,
}

impl Csr {
    /// With a new P-256 key, for these URI names.
    ///
    /// # Panics
    /// When a name is not ASCII.
    pub fn of(uris: &[&str]) -> Self {
        Self::with(uris, &KeyPair::generate().expect("a key"))
    }

    /// With this key.
    ///
    /// # Panics
    /// When a name is not ASCII.
    pub fn with(uris: &[&str], key: &KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ASCII"))).collect();
        let csr = params.serialize_request(key).expect("a request");
        Self { pem: csr.pem().expect("PEM"), key_pem: key.serialize_pem() }
    }

    /// What was signed for it.
    ///
    /// # Panics
    /// When nothing was.
    pub fn leaf(&self, answer: &Answer) -> Leaf {
        assert_eq!(answer.code, "OK", "{}", answer.message);
        Leaf { cert_pem: answer.chain()[0].clone(), key_pem: self.key_pem.clone() }
    }
}

/// `IstioCertificateRequest`, its metadata among it.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds; 0: as long as may be.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateResponse {
    /// PEM, the leaf first.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Answer {
    /// One of [`CODES`].
    pub code: &'static str,
    /// `grpc-message`.
    pub message: String,
    /// Its messages.
    pub body: Vec<Bytes>,
}

impl Answer {
    /// The chain of a [`CertificateResponse`].
    ///
    /// # Panics
    /// When it is none.
    pub fn chain(&self) -> Vec<String> {
        CertificateResponse::decode(self.body[0].clone()).expect("a response").cert_chain
    }
}

/// A connection to the ADS port; closed when dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Opens one, and waits until the control plane has let it in: TLS 1.3 tells a client afterwards.
    ///
    /// # Errors
    /// When it has not.
    pub async fn open(to: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let tcp = TcpStream::connect(to).await?;
        let name = ServerName::from(to.ip());
        let tls = soon("a handshake", TlsConnector::from(tls).connect(name, tcp)).await?;
        let (sender, mut connection) = h2::client::handshake(tls).await.map_err(io::Error::other)?;
        let mut pings = connection.ping_pong().expect("a first one");
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let opened = Self { sender, task };
        soon("the answer to a PING", pings.ping(h2::Ping::opaque())).await.map_err(io::Error::other)?;
        Ok(opened)
    }

    /// Opens a stream; `token` goes into `authorization`.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn stream(&mut self, path: &str, token: Option<&str>) -> io::Result<Stream> {
        let mut request = Request::post(format!("https://control{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).map_err(io::Error::other)?;
        let mut sender = self.sender.clone().ready().await.map_err(io::Error::other)?;
        let (response, out) = sender.send_request(request, false).map_err(io::Error::other)?;
        Ok(Stream { out, response: Some(response), body: None, deframer: Deframer::default(), head: None })
    }

    /// A call of one message.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn call(&mut self, path: &str, token: Option<&str>, request: &[u8]) -> io::Result<Answer> {
        let mut stream = self.stream(path, token).await?;
        stream.send(request, true)?;
        stream.end().await
    }

    /// `CreateCertificate`.
    ///
    /// # Panics
    /// When the connection has ended.
    pub async fn create(&mut self, token: Option<&str>, csr: &str, seconds: i64) -> Answer {
        let request = CertificateRequest { csr: csr.to_owned(), validity_duration: seconds };
        self.call(CREATE, token, &request.encode_to_vec()).await.expect("an answer")
    }

    /// Waits until the other side has ended it.
    pub async fn ended(&self) {
        until("the end of the connection", async || self.task.is_finished()).await;
    }

    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }
}

/// A stream of messages.
#[derive(Debug)]
pub struct Stream {
    out: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    deframer: Deframer,
    /// Of a response without messages.
    head: Option<http::HeaderMap>,
}

impl Stream {
    /// Sends a message.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn send(&mut self, request: &[u8], is_last: bool) -> io::Result<()> {
        self.out.send_data(message(request), is_last).map_err(io::Error::other)
    }

    /// The next message; `None`: there are no more.
    ///
    /// # Errors
    /// When the stream has broken.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        soon("a message", async {
            if let Some(response) = self.response.take() {
                let (head, body) = response.await.map_err(io::Error::other)?.into_parts();
                self.head = Some(head.headers);
                self.body = Some(body);
            }
            let body = self.body.as_mut().expect("a body");
            loop {
                if let Some(message) = self.deframer.next_message() {
                    return Ok(Some(message));
                }
                let Some(data) = body.data().await else { return Ok(None) };
                let data = data.map_err(io::Error::other)?;
                body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
                self.deframer.push(&data);
            }
        })
        .await
    }

    /// All messages that are left, and the status.
    ///
    /// # Errors
    /// When the stream has broken.
    pub async fn end(mut self) -> io::Result<Answer> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await? {
            all.push(message);
        }
        let body = self.body.as_mut().expect("a body");
        let trailers = body.trailers().await.map_err(io::Error::other)?.or(self.head).unwrap_or_default();
        let text = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let code: usize = text("grpc-status").parse().map_err(io::Error::other)?;
        Ok(Answer { code: CODES[code], message: text("grpc-message").to_owned(), body: all })
    }
}
