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
use std::time::Duration;

use bytes::Bytes;
use config::model::Limits;
use h2::client::{self, SendRequest};
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::dial::{Dialled, Remembered};
use crate::endpoint::Endpoint;
use crate::io::{DATA_FRAME_BUDGET, Io, Turn, Wire};
use crate::tls::credentials::Client;
use crate::tls::expiry::{Expiry, Now, Stage};
use crate::tls::proof::Proof;
use identity::leaf::Leaf;

/// Streams whose late frames are forgiven after we have reset them.
const RESET_STREAMS_MAX: usize = 1_024;
const RESET_STREAMS_FOR: Duration = Duration::from_secs(5);

/// A connection that is ready for calls.
pub(crate) struct Connected {
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) connection: client::Connection<Io, Bytes>,
    pub(crate) turn: Rc<Turn>,
    /// By the certificates of both.
    pub(crate) expiry: Option<Expiry>,
    /// By which the server has shown who it is.
    pub(crate) proof: Option<Proof>,
    /// That it is one of ours.
    pub(crate) remembered: Remembered,
}

/// Connects; the error says which step failed. The caller bounds the time.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Arc<Client>>,
    user_timeout: Duration,
    limits: &Limits,
    dialled: &Dialled,
) -> Result<Connected, String> {
    if let Some(tls) = tls {
        tls.check(Now::read().wall).map_err(|why| format!("TLS: {why}"))?;
    }
    let (tcp, remembered) =
        dialled.dial(endpoint.address, user_timeout).await.map_err(|error| format!("connect: {error}"))?;
    let (wire, expiry, proof) = match tls {
        None => (Wire::plain(tcp), None, None),
        Some(tls) => {
            let name = ServerName::IpAddress(endpoint.address.ip().into());
            let stream = TlsConnector::from(tls.config.clone())
                .connect(name, tcp)
                .await
                .map_err(|error| format!("TLS: {}", said(&error)))?;
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let proof = Proof::of_server(chain, tls);
            let leaf = chain.first().and_then(|leaf| Leaf::read(leaf).ok());
            let now = Now::read();
            let expiry = leaf.map(|leaf| Expiry::new(leaf.not_after, tls.not_after, now));
            // TLS looks at whole seconds, and lets the last one pass; a call would be cut off at once.
            if expiry.is_some_and(|expiry| expiry.stage(now) == Stage::Over) {
                return Err("TLS: its certificate has expired".to_owned());
            }
            (Wire::tls(stream.into()), expiry, Some(proof))
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
    Ok(Connected { sender, connection, turn, expiry, proof, remembered })
}

/// What is wrong with a handshake. What our own verifier refused is said in its words, where rustls would show
/// how it is stored.
fn said(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(refusal))) => refusal.0.to_string(),
        _ => error.to_string(),
    }
}
