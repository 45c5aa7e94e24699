//! From a byte stream to an HTTP/2 connection, and who is on it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use config::model::Limits;
use h2::server;
use rustls::{AlertDescription, CertificateError};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::io::{DATA_FRAME_BUDGET, Io, Turn, Wire};
use crate::metrics::events::HandshakeFailure;
use crate::tls::credentials::{ALPN_HTTP2, ALPN_OPAQUE, Credentials};
use crate::tls::expiry::{Expiry, Now, Stage};
use crate::tls::proof::Proof;
use crate::tls::verify::Refusal;
use identity::leaf::{Flaw, Leaf};

/// Streams whose late frames are forgiven after we have reset them.
const RESET_STREAMS_MAX: usize = 1_024;
const RESET_STREAMS_FOR: Duration = Duration::from_secs(5);
/// Streams that a caller may reset before we have even seen them; beyond that h2 says GOAWAY.
const PENDING_RESETS_MAX: usize = 1_024;

/// A connection that speaks HTTP/2.
pub(crate) struct Established {
    pub(crate) connection: server::Connection<Io, Bytes>,
    pub(crate) turn: Rc<Turn>,
}

/// A caller that proved who it is.
pub(crate) struct Peer {
    pub(crate) leaf: Leaf,
    /// SHA-256 of its certificate, in hex.
    pub(crate) hash: String,
    /// By its certificate and by the one that it was shown.
    pub(crate) expiry: Expiry,
    pub(crate) proof: Proof,
}

/// What the two sides of a TLS connection agreed to speak inside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Http2,
    Opaque,
    /// Nothing was agreed upon: the bytes must tell.
    Unsaid,
}

/// Greets an HTTP/2 client; the caller bounds the time.
pub(crate) async fn greet(wire: Wire, limits: &Limits) -> Result<Established, HandshakeFailure> {
    let io = Io::new(wire);
    let turn = io.turn();
    turn.begin();
    let connection = server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_list)
        .max_send_buffer_size(limits.send_buffer)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .reset_stream_duration(RESET_STREAMS_FOR)
        .max_local_error_reset_streams(None)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .handshake(io)
        .await
        .map_err(|error| if error.is_io() { HandshakeFailure::Closed } else { HandshakeFailure::Protocol })?;
    Ok(Established { connection, turn })
}

/// Terminates mTLS as `own`; the caller bounds the time.
pub(crate) async fn authenticate(
    tcp: TcpStream,
    own: &Credentials,
) -> Result<(Wire, Peer, Inside), HandshakeFailure> {
    if own.leaf().not_after <= Now::read().wall {
        // Nobody would take it, and it would look as if they had closed.
        return Err(HandshakeFailure::NoIdentity);
    }
    let stream = TlsAcceptor::from(own.server.clone()).accept(tcp).await.map_err(|error| judge(&error))?;
    let session = stream.get_ref().1;
    let inside = match session.alpn_protocol() {
        Some(ALPN_HTTP2) => Inside::Http2,
        Some(ALPN_OPAQUE) => Inside::Opaque,
        Some(_) => return Err(HandshakeFailure::Protocol),
        None => Inside::Unsaid,
    };
    let chain = session.peer_certificates().unwrap_or_default();
    let certificate = chain.first().ok_or(HandshakeFailure::NoCertificate)?;
    let leaf = Leaf::read(certificate).map_err(|_| HandshakeFailure::SpiffeId)?;
    let now = Now::read();
    let expiry = Expiry::new(leaf.not_after, own.leaf().not_after, now);
    if expiry.stage(now) == Stage::Over {
        return Err(HandshakeFailure::Expired);
    }
    let hash = files::fingerprint(certificate);
    let proof = Proof::of_caller(chain, own);
    Ok((Wire::tls(stream.into()), Peer { leaf, hash, expiry, proof }, inside))
}

/// Finds out what was wrong with a TLS handshake, so that it is counted under its reason.
fn judge(error: &std::io::Error) -> HandshakeFailure {
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
        return HandshakeFailure::Closed;
    };
    match error {
        rustls::Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => HandshakeFailure::UnknownIssuer,
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => HandshakeFailure::Expired,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => HandshakeFailure::NotValidYet,
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => HandshakeFailure::KeyUsage,
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<Refusal>() {
                Some(Refusal::TrustDomain(_)) => HandshakeFailure::TrustDomain,
                Some(Refusal::Flaw(Flaw::Authority(_))) => HandshakeFailure::CaAsLeaf,
                Some(Refusal::Flaw(Flaw::KeyUse(_))) => HandshakeFailure::KeyUsage,
                Some(_) => HandshakeFailure::SpiffeId,
                None => HandshakeFailure::TlsError,
            }
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            HandshakeFailure::NoCertificate
        }
        _ => HandshakeFailure::TlsError,
    }
}
