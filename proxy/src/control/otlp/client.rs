//! Sends one export: a unary call over a connection of its own that is kept for the next.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::{self, SendRequest};
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::control::otlp::proto::rejected;
use crate::control::otlp::settings::{Collector, Settings};
use crate::grpc::status::Code;
use crate::tls::read_certificates;

const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Of an answer, so much is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Where systems keep the roots that they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The way to the collector.
pub(crate) struct Client {
    collector: Collector,
    uri: Uri,
    headers: HeaderMap,
    gzip: bool,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
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

/// Why an export did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// It may arrive if it is sent once more.
    pub(crate) again: bool,
    /// The collector asked to be left alone for so long.
    pub(crate) after: Option<Duration>,
    pub(crate) what: String,
}

impl Failure {
    fn passing(what: impl Into<String>) -> Self {
        Self { again: true, after: None, what: what.into() }
    }
}

impl Client {
    /// Reads the certificates, if TLS is spoken. The error says which file is at fault.
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        let collector = settings.collector.clone();
        let tls = if collector.tls { Some(tls(settings)?) } else { None };
        let uri = format!("{collector}{PATH}").parse().map_err(|error| format!("{collector}: {error}"))?;
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let agent = concat!("OTel-OTLP-Exporter-Outrigger/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if settings.gzip {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        Ok(Self { collector, uri, headers, gzip: settings.gzip, tls, open: None })
    }

    /// Sends a request, within `limit`; tells how many of its spans were rejected, and why.
    pub(crate) async fn export(&mut self, request: &[u8], limit: Duration) -> Result<(u64, String), Failure> {
        let done = match timeout(limit, self.try_export(request)).await {
            Ok(done) => done,
            Err(_) => Err(Failure::passing(format!("no answer within {limit:?}"))),
        };
        if done.as_ref().is_err_and(|failure| failure.again) {
            // It is made anew: the next one may lead elsewhere.
            self.open = None;
        }
        done
    }

    async fn try_export(&mut self, request: &[u8]) -> Result<(u64, String), Failure> {
        let message = frame(request, self.gzip).map_err(|error| Failure::passing(error.to_string()))?;
        let broken = |error: h2::Error| Failure::passing(error.to_string());
        let open = match self.open.take() {
            Some(open) => open,
            None => self.connect().await.map_err(Failure::passing)?,
        };
        let mut sender = open.sender.clone().ready().await.map_err(broken)?;
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.uri.clone();
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = self.headers.clone();
        let (response, mut stream) = sender.send_request(head, false).map_err(broken)?;
        stream.send_data(message, true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        let mut answer = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(broken)?;
            let _ = body.flow_control().release_capacity(chunk.len());
            let room = ANSWER_BYTES_MAX.saturating_sub(answer.len()).min(chunk.len());
            answer.extend_from_slice(&chunk[..room]);
        }
        let trailers = body.trailers().await.map_err(broken)?;
        self.open = Some(open);
        judge(head.status, &head.headers, trailers.as_ref(), &answer)
    }

    async fn connect(&self) -> Result<Open, String> {
        let Collector { host, port, .. } = &self.collector;
        let tcp =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|error| format!("connect: {error}"))?;
        let _ = tcp.set_nodelay(true);
        match &self.tls {
            None => talk(tcp).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(config.clone());
                let tls =
                    connector.connect(name.clone(), tcp).await.map_err(|error| format!("TLS: {error}"))?;
                talk(tls).await
            }
        }
    }
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

/// What an answer means (OTLP specification, "Failures").
fn judge(
    http: StatusCode,
    head: &HeaderMap,
    trailers: Option<&HeaderMap>,
    answer: &[u8],
) -> Result<(u64, String), Failure> {
    let fields = trailers.filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(head);
    let code = Code::of_headers(fields).unwrap_or(match http {
        StatusCode::OK => Code::Unknown,
        status => Code::of_http(status),
    });
    if code == Code::Ok {
        return Ok(rejected(answer.get(5..).unwrap_or_default()));
    }
    let said = fields.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    let after = fields.get("grpc-retry-pushback-ms").and_then(|ms| ms.to_str().ok()?.parse().ok());
    let again = matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    );
    let what = match (http, said) {
        (StatusCode::OK, "") => code.name().to_owned(),
        (StatusCode::OK, said) => format!("{}: {said}", code.name()),
        (status, _) => format!("HTTP {}", status.as_u16()),
    };
    Err(Failure { again, after: after.map(Duration::from_millis), what })
}

/// TLS towards a collector, which is no part of the mesh: by the names and roots of the web.
fn tls(settings: &Settings) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let path = match &settings.roots {
        Some(path) => path.clone(),
        None => system_roots().ok_or_else(|| {
            format!(
                "{}: this system has no roots at {}; name them in OTEL_EXPORTER_OTLP_CERTIFICATE",
                settings.collector,
                SYSTEM_ROOTS.join(" or ")
            )
        })?,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_certificates(&path)?);
    let host = &settings.collector.host;
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(host.clone())
            .map_err(|_| format!("{}: `{host}` cannot stand in a certificate", settings.collector))?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("{}: no private key in PEM: {error}", key.display()))?;
            builder
                .with_client_auth_cert(read_certificates(certificate)?, private)
                .map_err(|error| format!("{}: {error}", certificate.display()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(config), name))
}

fn system_roots() -> Option<PathBuf> {
    SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_what_may_go_well_another_time_is_sent_again() {
        for (code, again) in
            [(1, true), (3, false), (4, true), (8, true), (12, false), (14, true), (16, false)]
        {
            let trailers = fields(&[("grpc-status", &code.to_string())]);
            let failure = judge(StatusCode::OK, &HeaderMap::new(), Some(&trailers), b"").unwrap_err();
            assert_eq!(failure.again, again, "{code}");
        }
        let head = fields(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "250")]);
        let failure = judge(StatusCode::OK, &head, None, b"").unwrap_err();
        assert_eq!(failure.after, Some(Duration::from_millis(250)));
        for (status, again) in [(503, true), (429, true), (404, false), (200, false)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(judge(status, &HeaderMap::new(), None, b"").unwrap_err().again, again, "{status}");
        }
        let well = fields(&[("grpc-status", "0")]);
        assert_eq!(
            judge(StatusCode::OK, &well, None, b"\0\0\0\0\x04\x0a\x02\x08\x03"),
            Ok((3, String::new()))
        );
    }
}
