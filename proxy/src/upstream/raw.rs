//! Opens a connection for bytes that pass as they are, plain or inside mTLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dial::{Dialled, Remembered};
use crate::io::Wire;
use crate::socket::USER_TIMEOUT;
use crate::tls::credentials::{ALPN_OPAQUE, Client};
use crate::tls::expiry::{Expiry, Now};
use crate::tls::proof::Proof;
use identity::leaf::Leaf;

/// A stream of bytes to somebody.
pub(crate) struct Raw {
    pub(crate) wire: Wire,
    /// The peer proved its identity.
    pub(crate) mtls: bool,
    /// Until when it may be used, by the certificates of both.
    pub(crate) expiry: Option<Expiry>,
    /// By which the peer has shown who it is.
    pub(crate) proof: Option<Proof>,
    /// That the connection is one of ours.
    pub(crate) remembered: Remembered,
}

/// Connects within `limit`. With `tls` the peer must prove who it is, and is told that what follows is not HTTP/2.
pub(crate) async fn connect(
    dialled: &Dialled,
    address: SocketAddr,
    tls: Option<&Arc<Client>>,
    limit: Duration,
) -> io::Result<Raw> {
    if let Some(Err(why)) = tls.map(|tls| tls.check(Now::read().wall)) {
        return Err(io::Error::other(why));
    }
    let connect = async {
        let (tcp, remembered) = dialled.dial(address, USER_TIMEOUT).await?;
        let Some(tls) = tls else {
            return Ok(Raw { wire: Wire::plain(tcp), mtls: false, expiry: None, proof: None, remembered });
        };
        let mut config = ClientConfig::clone(&tls.config);
        config.alpn_protocols = vec![ALPN_OPAQUE.to_vec()];
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let proof = Some(Proof::of_server(chain, tls));
        let leaf = chain.first().and_then(|leaf| Leaf::read(leaf).ok());
        let expiry = leaf.map(|leaf| Expiry::new(leaf.not_after, tls.not_after, Now::read()));
        Ok(Raw { wire: Wire::tls(stream.into()), mtls: true, expiry, proof, remembered })
    };
    timeout(limit, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
