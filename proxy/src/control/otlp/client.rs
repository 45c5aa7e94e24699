//! Sends one export: a unary call over a connection of its own that is kept for the next.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use config::collector::Collector;
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::{self, SendRequest};
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::control::lookup::Lookups;
use crate::control::otlp::answer::{Answer, Failure};
use crate::control::otlp::settings::Settings;
use crate::control::otlp::trust::{Ready, Trust};

const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Of an answer, so much is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Addresses of the collector's name that one try goes through.
const ADDRESSES_MAX: usize = 8;

/// The way to the collector.
pub(crate) struct Client {
    collector: Collector,
    uri: Uri,
    headers: HeaderMap,
    gzip: bool,
    trust: Option<Trust>,
    lookups: Lookups,
    open: Option<Open>,
}

/// A connection, closed when dropped.
struct Open {
    sender: SendRequest<Bytes>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Reads the certificates, if TLS is spoken. The error says which file is at fault.
    pub(crate) fn new(settings: &Settings, lookups: Lookups) -> Result<Self, String> {
        let collector = settings.collector.clone();
        let trust = if collector.tls { Some(Trust::new(settings)?) } else { None };
        let uri = format!("{collector}{PATH}").parse().map_err(|error| format!("{collector}: {error}"))?;
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let agent = concat!("OTel-OTLP-Exporter-Outrigger/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if settings.gzip {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        Ok(Self { collector, uri, headers, gzip: settings.gzip, trust, lookups, open: None })
    }

    /// Sends a request, within `limit`; tells how many of its spans were rejected, and why.
    pub(crate) async fn export(&mut self, request: &[u8], limit: Duration) -> Result<(u64, String), Failure> {
        let end = Instant::now() + limit;
        let done = match timeout_at(end, self.try_export(request, end)).await {
            Ok(done) => done,
            Err(_) => Err(Failure::passing(format!("no answer within {limit:?}"))),
        };
        if done.as_ref().is_err_and(|failure| failure.again) {
            // It is made anew: the next one may lead elsewhere.
            self.open = None;
        }
        done
    }

    async fn try_export(&mut self, request: &[u8], end: Instant) -> Result<(u64, String), Failure> {
        let message = frame(request, self.gzip).map_err(|error| Failure::passing(error.to_string()))?;
        // A collector closes connections that are idle, and those of its last life: no failure, if a new one can be had.
        // What it took before is then sent twice, as it is after any answer that is lost.
        if let Some(kept) = self.open.take().filter(|open| !open.task.is_finished())
            && let Ok(answer) = self.ask(kept, message.clone()).await
        {
            return answer.judge();
        }
        let open = self.connect(end).await.map_err(Failure::passing)?;
        self.ask(open, message).await.map_err(|error| Failure::passing(error.to_string()))?.judge()
    }

    /// Sends a message over a connection, and keeps that if an answer comes.
    async fn ask(&mut self, open: Open, message: Bytes) -> Result<Answer, h2::Error> {
        let mut sender = open.sender.clone().ready().await?;
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.uri.clone();
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = self.headers.clone();
        let (response, mut stream) = sender.send_request(head, false)?;
        stream.send_data(message, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut answer = Answer { http: head.status, head: head.headers, ..Answer::default() };
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            let _ = body.flow_control().release_capacity(chunk.len());
            let room = ANSWER_BYTES_MAX.saturating_sub(answer.body.len()).min(chunk.len());
            answer.body.extend_from_slice(&chunk[..room]);
        }
        answer.trailers = body.trailers().await?;
        self.open = Some(open);
        Ok(answer)
    }

    /// Tries each address with its share of the time; one share more is left for the export itself.
    async fn connect(&mut self, end: Instant) -> Result<Open, String> {
        let tls = match &mut self.trust {
            Some(trust) => Some(trust.read().await?),
            None => None,
        };
        let addresses = self.addresses().await?;
        let mut failed = String::new();
        for (tried, address) in addresses.iter().enumerate() {
            let shares = (addresses.len() - tried + 1) as u32;
            let share = end.saturating_duration_since(Instant::now()) / shares;
            match timeout(share, reach(*address, tls.as_ref())).await {
                Ok(Ok(open)) => return Ok(open),
                Ok(Err(error)) => failed = format!("{address}: {error}"),
                Err(_) => failed = format!("{address}: no connection within {share:?}"),
            }
        }
        Err(failed)
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let Collector { host, port, .. } = &self.collector;
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            // RFC 6761, section 6.3: whatever name servers there are.
            Err(_) if host.eq_ignore_ascii_case("localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Err(_) => self.lookups.addresses(host).await.map_err(|error| format!("`{host}`: {error}"))?,
        };
        Ok(found.into_iter().take(ADDRESSES_MAX).map(|address| (address, *port).into()).collect())
    }
}

async fn reach(address: SocketAddr, tls: Option<&Ready>) -> Result<Open, String> {
    let tcp = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    let _ = tcp.set_nodelay(true);
    let Some((config, name)) = tls else { return talk(tcp).await };
    let connecting = TlsConnector::from(config.clone()).connect(name.clone(), tcp);
    talk(connecting.await.map_err(|error| format!("TLS: {error}"))?).await
}

async fn talk(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Open, String> {
    let (sender, connection) = client::handshake(io).await.map_err(|error| format!("HTTP/2: {error}"))?;
    // Its end shows in the next export.
    let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok(Open { sender, task })
}

/// A gRPC message with its prefix.
fn frame(request: &[u8], gzip: bool) -> std::io::Result<Bytes> {
    let mut message = vec![u8::from(gzip), 0, 0, 0, 0];
    if gzip {
        let mut encoder = GzEncoder::new(message, Compression::fast());
        encoder.write_all(request)?;
        message = encoder.finish()?;
    } else {
        message.extend_from_slice(request);
    }
    let length = u32::try_from(message.len() - 5).map_err(std::io::Error::other)?;
    message[1..5].copy_from_slice(&length.to_be_bytes());
    Ok(message.into())
}
