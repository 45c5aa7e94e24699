//! Opens one connection: TCP, TLS, HTTP/2, and the peer's SETTINGS.
//!
//! Nothing is sent before the peer's SETTINGS are here. Only then is it known how many streams it takes,
//! and, in TLS 1.3, that it has accepted our certificate: a refused certificate is a connect error and not
//! a lost call.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use config::model::Limits;
use h2::client::{self, SendRequest};
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::dial::{Dialled, Remembered};
use crate::endpoint::Endpoint;
use crate::io::{DATA_FRAME_BUDGET, Io, Turn, Wire};
use crate::tls::leaf::{Leaf, Validity};

/// Streams whose late frames are forgiven after we have reset them.
const RESET_STREAMS_MAX: usize = 1_024;
const RESET_STREAMS_FOR: Duration = Duration::from_secs(5);

/// A connection that is ready for calls.
pub(crate) struct Connected {
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) connection: client::Connection<Io, Bytes>,
    pub(crate) turn: Rc<Turn>,
    /// Of the peer's certificate.
    pub(crate) validity: Option<Validity>,
    /// That it is one of ours.
    pub(crate) remembered: Remembered,
}

/// Connects; the error says which step failed. The caller bounds the time.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
    user_timeout: Duration,
    limits: &Limits,
    dialled: &Dialled,
) -> Result<Connected, String> {
    let (tcp, remembered) =
        dialled.dial(endpoint.address, user_timeout).await.map_err(|error| format!("connect: {error}"))?;
    let (wire, validity) = match tls {
        None => (Wire::plain(tcp), None),
        Some(config) => {
            let name = ServerName::IpAddress(endpoint.address.ip().into());
            let stream = TlsConnector::from(config.clone())
                .connect(name, tcp)
                .await
                .map_err(|error| format!("TLS: {}", said(&error)))?;
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| Leaf::read(&chain[0]).ok());
            let validity = leaf.map(|leaf| leaf.validity(SystemTime::now()));
            // TLS looks at whole seconds, and lets the last one pass; a call would be cut off at once.
            if validity.is_some_and(|validity| validity.ends_after.is_zero()) {
                return Err("TLS: its certificate has expired".to_owned());
            }
            (Wire::tls(stream.into()), validity)
        }
    };
    let io = Io::new(wire);
    let turn = io.turn();
    turn.begin();
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(0)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.header_list)
        .max_send_buffer_size(limits.send_buffer)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .reset_stream_duration(RESET_STREAMS_FOR)
        .max_local_error_reset_streams(None)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| format!("HTTP/2 preface: {error}"))?;
    poll_fn(|cx| {
        turn.begin();
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err("closed before its HTTP/2 SETTINGS".to_owned())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(format!("before its HTTP/2 SETTINGS: {error}"))),
            Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    Ok(Connected { sender, connection, turn, validity, remembered })
}

/// What is wrong with a handshake. What our own verifier refused is said in its words, where rustls would show
/// how it is stored.
fn said(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(refusal))) => refusal.0.to_string(),
        _ => error.to_string(),
    }
}
